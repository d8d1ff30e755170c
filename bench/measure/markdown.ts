/** A table in Markdown; the first column is text, the others are numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  const rule = line(head.map((_, index) => (index === 0 ? '---' : '---:')));
  return `${line(head)}${rule}${rows.map(line).join('')}`;
}

/** Heads of the columns that `ratios` fills. */
export function ratioHeads([first, ...others]: readonly string[]): string[] {
  return others.map((name) => `${first} / ${name}`);
}

/** The first value divided by each other one; empty where one is not known. */
export function ratios([first, ...others]: readonly (number | undefined)[]): string[] {
  return others.map((other) => (first === undefined || other === undefined ? '' : (first / other).toFixed(2)));
}
