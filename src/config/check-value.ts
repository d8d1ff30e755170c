import { parseSetting, parseUlimit } from './parse-setting.ts';
import type { Kind, TomlValue } from './schema.ts';

/** Longest address of a unix socket: sun_path of unix(7), with its NUL. */
const MAX_SOCKET_PATH_BYTES = 107;

/** What is wrong with a value, or undefined. `${expected}, got ${value}` in words for an operator. */
export function findProblem(kind: Kind, value: unknown): string | undefined {
  const expected = (what: string): string => `expected ${what}, got ${show(value)}`;
  switch (kind.type) {
    case 'text':
      return typeof value === 'string' ? undefined : expected('a text');
    case 'path':
      if (kind.mayBeEmpty && value === '') return undefined;
      return isPath(value) ? undefined : expected('an absolute path');
    case 'program':
      return isPath(value) || (typeof value === 'string' && /^[\w.+-]+$/.test(value))
        ? undefined
        : expected('the name of a program or an absolute path');
    case 'word':
      return kind.words.some((word) => word === value) ? undefined : expected(`one of ${kind.words.join(', ')}`);
    case 'name':
      if (kind.mayBeEmpty && value === '') return undefined;
      return typeof value === 'string' && /^[\w.-]+$/.test(value)
        ? undefined
        : expected('a name of letters, digits, - _ and .');
    case 'socket':
      return isSocket(value)
        ? undefined
        : expected(`unix:// and an absolute path of at most ${MAX_SOCKET_PATH_BYTES} bytes`);
    case 'address':
      if (kind.mayBeEmpty && value === '') return undefined;
      return typeof value === 'string' && parseAddress(value) ? undefined : expected(wantedAddress(value));
    case 'duration':
      return typeof value === 'string' && (parseDuration(value) ?? 0) > 0
        ? undefined
        : expected('a duration such as "30s" or "1m30s"');
    case 'switch':
      return typeof value === 'boolean' ? undefined : expected('true or false');
    case 'setting':
      return typeof value === 'string' && parseSetting(value) ? undefined : expected('NAME=VALUE, on one line');
    case 'ulimit':
      return typeof value === 'string' && parseUlimit(value)
        ? undefined
        : expected('a limit such as nofile=1024:4096, the first not above the second');
    case 'count':
      return Number.isInteger(value) && Number(value) >= kind.min && Number(value) <= kind.max
        ? undefined
        : expected(`a number from ${kind.min} to ${kind.max}`);
    case 'list':
      if (!Array.isArray(value)) return expected('a list');
      return value.map((item: unknown) => findProblem(kind.of, item)).find((problem) => problem !== undefined);
  }
}

/** Host and port of `127.0.0.1:80`, `name:80` or `[::1]:80`. */
export function parseAddress(text: string): { host: string; port: number } | undefined {
  const [, bracketed, plain, digits = ''] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]]*)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = Number(digits);
  return host !== undefined && port <= 65_535 ? { host, port } : undefined;
}

const UNIT_MS: Readonly<Record<string, number>> = Object.freeze({ ms: 1, s: 1000, m: 60_000, h: 3_600_000 });

/** Milliseconds of a text such as `1h`, `1m30s` or `250ms`; undefined for anything else, and beyond 24 days. */
export function parseDuration(text: string): number | undefined {
  if (!/^(\d{1,10}(ms|s|m|h))+$/.test(text)) return undefined;
  let totalMs = 0;
  for (const [, digits = '', unit = ''] of text.matchAll(/(\d+)(ms|s|m|h)/g))
    totalMs += Number(digits) * (UNIT_MS[unit] ?? 0);
  // What a timer can carry.
  return totalMs <= 2_147_483_647 ? totalMs : undefined;
}

/** The shortest text that parseDuration() reads as this many milliseconds, in whole units. */
export function formatDuration(durationMs: number): string {
  const unit = ['h', 'm', 's'].find((name) => durationMs % (UNIT_MS[name] ?? 1) === 0) ?? 'ms';
  return `${durationMs / (UNIT_MS[unit] ?? 1)}${unit}`;
}

/** A value as TOML. */
export function toToml(value: TomlValue): string {
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return typeof value === 'string' ? quote(value) : `[${value.map(quote).join(', ')}]`;
}

/** A value as an error shows it. */
export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (Array.isArray(value)) return 'a list';
  return value instanceof Date ? 'a date' : 'a table';
}

function quote(text: string): string {
  // TOML wants DEL escaped, and JSON does not do it.
  return JSON.stringify(text).replaceAll('\x7f', '\\u007f');
}

function isPath(value: unknown): boolean {
  return typeof value === 'string' && value.startsWith('/') && !value.includes('\0');
}

function isSocket(value: unknown): boolean {
  if (typeof value !== 'string' || !value.startsWith('unix:///') || value.endsWith('/')) return false;
  return Buffer.byteLength(value.slice('unix://'.length)) <= MAX_SOCKET_PATH_BYTES && !value.includes('\0');
}

/** Of addresses people know URLs best: one is told from other mistakes. */
function wantedAddress(value: unknown): string {
  const rest = typeof value === 'string' ? /^[a-z]+:\/\/([^/]+)\/?$/.exec(value)?.[1] : undefined;
  if (rest !== undefined && parseAddress(rest)) return `an address and a port and no more, as ${JSON.stringify(rest)}`;
  return 'an address and a port, such as 127.0.0.1:9190 or [::1]:0';
}
