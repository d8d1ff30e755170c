import { printable } from '../base/printable.ts';

/** Where a command writes. Tests hand in their own. */
export interface Output {
  out(text: string): void;
  err(text: string): void;
  /** How wide the terminal is that `err` writes to; undefined when it is none. */
  readonly columns?: number | undefined;
}

/** Where also what is no text can be written. */
export interface ByteOutput extends Output {
  /** Writes to where `out` does, and resolves when more can be taken. */
  outBytes(bytes: Uint8Array): Promise<void>;
  /** True when `out` is a terminal. */
  readonly isTerminal?: boolean | undefined;
}

/** The process's own streams. */
export const terminal: ByteOutput = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  outBytes: (chunk) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    process.stdout.write(chunk, (err) => (err ? reject(err) : resolve()));
    return promise;
  },
  get isTerminal() {
    return process.stdout.isTTY;
  },
  get columns() {
    return process.stderr.isTTY ? process.stderr.columns : undefined;
  },
};

/** Rows under headings, columns aligned, two spaces apart, nothing cut off; whatever the cells hold, a line each. */
export function table(headings: readonly string[], cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map(printable));
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(column === row.length - 1 ? 0 : (widths[column] ?? 0)))
      .join('  ')
      .trimEnd();
  return `${[headings, ...rows].map(line).join('\n')}\n`;
}

/** JSON for programs: bigint as number where exact, otherwise as text; bytes as UTF-8. */
export function json(value: unknown): string {
  const replace = (_key: string, item: unknown): unknown => {
    if (typeof item !== 'bigint') return item;
    return item <= BigInt(Number.MAX_SAFE_INTEGER) && item >= BigInt(Number.MIN_SAFE_INTEGER)
      ? Number(item)
      : item.toString();
  };
  return `${JSON.stringify(value, replace, 2)}\n`;
}

/** How long ago, in the largest unit that fits: `12s`, `5m`, `3h`, `2d`. */
export function age(nanos: bigint, nowMs: number = Date.now()): string {
  if (nanos === 0n) return '-';
  const seconds = Math.max(0, Math.floor((nowMs - Number(nanos / 1_000_000n)) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Bytes with a binary unit: `4.2 MiB`. */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** A time to come, in the two largest units: `45s`, `3m20s`, `2h5m`; `-` when nobody can tell. */
export function timeLeft(seconds: number): string {
  if (seconds < 0) return '-';
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${whole % 60}s`;
  return `${Math.floor(whole / 3600)}h${Math.floor((whole % 3600) / 60)}m`;
}

/** The part of an id that people read and type. */
export function shortId(id: string): string {
  return id.replace(/^sha256:/, '').slice(0, 12);
}
