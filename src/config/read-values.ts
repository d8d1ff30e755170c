import { findProblem, show } from './check-value.ts';
import type { ConfigProblems } from './config-problems.ts';
import { keyLines, lineOf } from './key-lines.ts';
import { nearest } from './nearest.ts';
import { NotTomlError, parseToml } from './parse-toml.ts';
import { HANDLER_KEYS, HANDLER_NAME, type KeySpec, TABLES, TOP_KEYS } from './schema.ts';

/** A checked value, and where it stands: `file:line`, or a flag. */
export interface FoundValue {
  readonly value: unknown;
  readonly at: string;
}

/**
 * What the files and flags say: `table.key`, `runtime.handlers.NAME.key`, and `runtime.handlers.NAME` itself for a
 * handler that has a table.
 */
export type Values = Map<string, FoundValue>;

/** What can be set by flags. */
export interface FlagValues {
  readonly root?: string;
  readonly state?: string;
  readonly listen?: string;
  readonly logLevel?: string;
}

/** Reads one file into `values`, key by key, and notes what is wrong with it. */
export function readValues(file: string, text: string, values: Values, problems: ConfigProblems): void {
  const document = parseOrNote(file, text, problems);
  const lines = keyLines(text);
  const found: { line: number; path: string; problem: string }[] = [];
  const fail = (path: string, problem: string): void => {
    found.push({ line: lineOf(lines, path), path, problem });
  };
  const take = (
    path: string,
    name: string,
    spec: KeySpec | undefined,
    known: readonly string[],
    value: unknown,
  ): void => {
    const problem = spec ? findProblem(spec.kind, value) : `unknown key${suggest(name, known)}`;
    if (problem === undefined) values.set(path, { value, at: `${file}:${lineOf(lines, path)}` });
    else fail(path, problem);
  };
  const tableOf = (path: string, value: unknown): Record<string, unknown> => {
    if (isTable(value)) return value;
    fail(path, `expected a table, got ${show(value)}`);
    return {};
  };

  const topNames = [...Object.keys(TOP_KEYS), ...Object.keys(TABLES)];
  for (const [name, value] of Object.entries(document)) {
    const table = lookUp(TABLES, name);
    if (!table) {
      take(name, name, lookUp(TOP_KEYS, name), topNames, value);
      continue;
    }
    const known = [...Object.keys(table), ...(name === 'runtime' ? ['handlers'] : [])];
    for (const [key, item] of Object.entries(tableOf(name, value))) {
      if (name === 'runtime' && key === 'handlers') continue;
      take(`${name}.${key}`, key, lookUp<KeySpec>(table, key), known, item);
    }
  }
  const handlers = isTable(document['runtime']) ? (document['runtime']['handlers'] ?? {}) : {};
  for (const [handler, table] of Object.entries(tableOf('runtime.handlers', handlers))) {
    const path = `runtime.handlers.${handler}`;
    if (handler === 'auto') fail(path, 'auto stands for the first that works, so no handler has this name');
    else if (!HANDLER_NAME.test(handler)) fail(path, 'a handler is named by at most 63 small letters, digits and -');
    else values.set(path, { value: true, at: `${file}:${lineOf(lines, path)}` });
    for (const [key, item] of Object.entries(tableOf(path, table))) {
      take(`${path}.${key}`, key, lookUp<KeySpec>(HANDLER_KEYS, key), Object.keys(HANDLER_KEYS), item);
    }
  }
  // An operator goes through the file from its top, whatever its tables are.
  for (const { line, path, problem } of found.sort((a, b) => a.line - b.line)) {
    problems.add(`${file}:${line}`, path, problem);
  }
}

function parseOrNote(file: string, text: string, problems: ConfigProblems): Record<string, unknown> {
  try {
    return parseToml(file, text);
  } catch (err) {
    if (!(err instanceof NotTomlError)) throw err;
    problems.addFile(`${file}:${err.line}`, err.problem);
    return {};
  }
}

/** Lays flags over `values`, and notes what is wrong with them. */
export function applyFlags(overrides: FlagValues, values: Values, problems: ConfigProblems): void {
  const flags = [
    ['--root', 'root', TOP_KEYS.root, overrides.root],
    ['--state', 'state', TOP_KEYS.state, overrides.state],
    ['--listen', 'listen', TOP_KEYS.listen, overrides.listen],
    ['--log-level', 'log.level', TABLES.log.level, overrides.logLevel],
  ] as const;
  for (const [flag, path, spec, value] of flags) {
    if (value === undefined) continue;
    const problem = findProblem(spec.kind, value);
    if (problem === undefined) values.set(path, { value, at: flag });
    else problems.addFlag(flag, path, problem);
  }
}

/** Ends an error about an unknown name: the known one that was meant, or all of them. */
export function suggest(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  return near === undefined ? `; known here: ${known.join(', ')}` : `; did you mean ${near}?`;
}

function lookUp<V>(table: Readonly<Record<string, V>>, name: string): V | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
