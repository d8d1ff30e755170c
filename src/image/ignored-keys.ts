/** A key in a file that Berth shares with other tools, and does not follow. */
export interface IgnoredKey {
  readonly file: string;
  /** As `host."https://mirror.example".dial_timeout`. */
  readonly key: string;
}

/** The keys of a table that are none of the known ones; `where` stands before them. */
export function ignoredKeys(file: string, table: unknown, known: readonly string[], where = ''): IgnoredKey[] {
  return entriesOf(table)
    .filter(([key]) => !known.includes(key))
    .map(([key]) => ({ file, key: where === '' ? key : `${where}.${key}` }));
}

/** Keys and values of a table; none of what is no table. */
export function entriesOf(table: unknown): [string, unknown][] {
  return typeof table === 'object' && table !== null && !Array.isArray(table) ? Object.entries(table) : [];
}

/** What to tell of it. */
export function describeIgnored({ key }: IgnoredKey): string {
  return `${key} is not followed by Berth`;
}
