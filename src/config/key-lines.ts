/**
 * Finds the line of each key in a TOML text that has parsed, as `table.key` paths; smol-toml tells lines only of what
 * it cannot parse. Values are passed over, so that a `=` or `[` in a text or a list is not taken for a key.
 */
export function keyLines(toml: string): Map<string, number> {
  const lines = new Map<string, number>();
  let table: string[] = [];
  let at = 0;
  let line = 1;
  while (at < toml.length) {
    const rest = toml.slice(at, toml.indexOf('\n', at) < 0 ? toml.length : toml.indexOf('\n', at)).trim();
    const lineStart = at;
    if (rest === '' || rest.startsWith('#')) {
      at = endOfLine(toml, at);
    } else if (rest.startsWith('[')) {
      table = splitKey(rest.replace(/^\[+/, '')).parts;
      note(lines, table, line);
      at = endOfLine(toml, at);
    } else {
      const indent = toml.slice(at).length - toml.slice(at).trimStart().length;
      const { parts, length } = splitKey(toml.slice(at + indent));
      note(lines, [...table, ...parts], line);
      at = endOfValue(toml, at + indent + length);
    }
    // Whatever happens, the scan moves on.
    if (at <= lineStart) at = endOfLine(toml, lineStart);
    line += count(toml.slice(lineStart, at));
  }
  return lines;
}

/** The line of a key; of the nearest table around it for one inside `{ }`, which has none of its own. */
export function lineOf(lines: ReadonlyMap<string, number>, path: string): number {
  for (let at = path; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('.')))) {
    const line = lines.get(at);
    if (line !== undefined) return line;
  }
  return 1;
}

function note(lines: Map<string, number>, parts: readonly string[], line: number): void {
  for (let depth = 1; depth <= parts.length; depth++) {
    const path = parts.slice(0, depth).join('.');
    if (!lines.has(path)) lines.set(path, line);
  }
}

/** The parts of a dotted key at the start of a text, and the characters up to the `=` or `]` after it. */
function splitKey(text: string): { parts: string[]; length: number } {
  const parts: string[] = [];
  let at = 0;
  for (;;) {
    at += (/^[ \t]*/.exec(text.slice(at))?.[0] ?? '').length;
    const found = /^(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*/.exec(text.slice(at));
    if (!found) return { parts, length: at };
    parts.push(found[1] === undefined ? (found[2] ?? found[3] ?? '') : unquote(found[1]));
    at += found[0].length;
    if (text[at] !== '.') return { parts, length: at };
    at += 1;
  }
}

function unquote(text: string): string {
  try {
    return String(JSON.parse(`"${text}"`));
  } catch {
    return text;
  }
}

/** The position after the line on which the value that begins at `=` ends. */
function endOfValue(toml: string, start: number): number {
  let depth = 0;
  for (let at = start; at < toml.length; at++) {
    const char = toml[at];
    if (char === '"' || char === "'") at = endOfText(toml, at);
    else if (char === '[' || char === '{') depth += 1;
    else if (char === ']' || char === '}') depth -= 1;
    else if (char === '#') at = endOfLine(toml, at) - 2;
    else if (char === '\n' && depth <= 0) return at + 1;
  }
  return toml.length;
}

/** The position of the quote that ends the text which begins at `start`. */
function endOfText(toml: string, start: number): number {
  const quote = toml[start] ?? '"';
  const long = quote.repeat(3);
  if (toml.startsWith(long, start)) {
    let end = start + 3;
    while (end < toml.length && !toml.startsWith(long, end)) end += quote === '"' && toml[end] === '\\' ? 2 : 1;
    // Up to two quotes may stand directly before the three that end it.
    for (let more = 0; more < 2 && toml[end + 3] === quote; more++) end += 1;
    return end + 2;
  }
  let end = start + 1;
  while (end < toml.length && toml[end] !== quote && toml[end] !== '\n')
    end += quote === '"' && toml[end] === '\\' ? 2 : 1;
  return end;
}

function endOfLine(toml: string, at: number): number {
  const end = toml.indexOf('\n', at);
  return end < 0 ? toml.length : end + 1;
}

function count(text: string): number {
  return text.split('\n').length - 1;
}
