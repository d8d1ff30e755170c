import { parse, TomlError } from 'smol-toml';

import { invalid, wrap } from '../base/errors.ts';
import { findProblem, show } from './check-value.ts';
import { keyLines, lineOf } from './key-lines.ts';
import { nearest } from './nearest.ts';
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

/** Reads one file into `values`, key by key. Throws `invalid` naming file, line and key. */
export function readValues(file: string, text: string, values: Values): void {
  const document = parseToml(file, text);
  const lines = keyLines(text);
  const at = (path: string): string => `${file}:${lineOf(lines, path)}`;
  const fail = (path: string, problem: string): never => {
    throw invalid(`${at(path)}: ${path}`, problem);
  };
  const take = (
    path: string,
    name: string,
    spec: KeySpec | undefined,
    known: readonly string[],
    value: unknown,
  ): void => {
    const problem = spec ? findProblem(spec.kind, value) : `unknown key${suggest(name, known)}`;
    if (problem !== undefined) fail(path, problem);
    values.set(path, { value, at: at(path) });
  };
  const tableOf = (path: string, value: unknown): Record<string, unknown> =>
    isTable(value) ? value : fail(path, `expected a table, got ${show(value)}`);

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
    if (!HANDLER_NAME.test(handler)) fail(path, 'a handler is named by at most 63 small letters, digits and -');
    values.set(path, { value: true, at: at(path) });
    for (const [key, item] of Object.entries(tableOf(path, table))) {
      take(`${path}.${key}`, key, lookUp<KeySpec>(HANDLER_KEYS, key), Object.keys(HANDLER_KEYS), item);
    }
  }
}

function parseToml(file: string, text: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (err) {
    if (!(err instanceof TomlError)) throw wrap(`parse ${file}`, err);
    const reason = err.message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    // Without the cause: it says the same again, with a picture over several lines.
    throw invalid(`${file}:${err.line}`, `not TOML: ${reason}`);
  }
}

/** Lays flags over `values`. Throws `invalid` naming the flag. */
export function applyFlags(overrides: FlagValues, values: Values): void {
  const flags = [
    ['--root', 'root', TOP_KEYS.root, overrides.root],
    ['--state', 'state', TOP_KEYS.state, overrides.state],
    ['--listen', 'listen', TOP_KEYS.listen, overrides.listen],
    ['--log-level', 'log.level', TABLES.log.level, overrides.logLevel],
  ] as const;
  for (const [flag, path, spec, value] of flags) {
    if (value === undefined) continue;
    const problem = findProblem(spec.kind, value);
    if (problem !== undefined) throw invalid(flag, problem);
    values.set(path, { value, at: flag });
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
