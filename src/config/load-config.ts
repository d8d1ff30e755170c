import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { parse, TomlError } from 'smol-toml';

import { because, invalid, wrap } from '../base/errors.ts';
import { findProblem, parseDuration } from './check-value.ts';
import { keyLines } from './key-lines.ts';
import { nearest } from './nearest.ts';
import { DEFAULT_HANDLERS, HANDLER_KEYS, HANDLER_NAME, type KeySpec, TABLES, TOP_KEYS } from './schema.ts';

/** The configuration of one berthd, all defaults filled in. */
export interface Config {
  readonly root: string;
  readonly state: string;
  readonly listen: string;
  readonly image: {
    readonly registriesConf: string;
    readonly registriesConfDir: string;
    readonly authFile: string;
    readonly signaturePolicy: string;
    readonly pauseImage: string;
    readonly pinnedImages: readonly string[];
    readonly maxParallelDownloads: number;
    readonly pullTimeoutMs: number;
  };
  readonly cni: {
    readonly confDir: string;
    readonly binDirs: readonly string[];
    readonly cacheDir: string;
    readonly defaultNetwork: string;
  };
  readonly runtime: {
    readonly defaultRuntime: string;
    readonly cgroupManager: 'auto' | 'cgroupfs' | 'systemd';
    readonly monitorPath: string;
    readonly defaultCapabilities: readonly string[];
    readonly pidsLimit: number;
    readonly seccompProfile: string;
    readonly handlers: Readonly<Record<string, HandlerConfig>>;
  };
  readonly stream: {
    readonly listen: string;
    readonly tlsCert: string;
    readonly tlsKey: string;
    readonly tlsClientCa: string;
  };
  readonly metrics: { readonly listen: string };
  readonly log: { readonly level: LogLevel; readonly format: 'auto' | 'json' | 'text' };
  /** The files that were read, in order. */
  readonly sources: readonly string[];
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** One runtime handler as configured. */
export interface HandlerConfig {
  readonly path: string;
  readonly root: string;
  readonly type: string;
}

/** Where the configuration comes from. */
export interface ConfigSources {
  /** Given by --config: it must be there, and its drop-ins are in `<file>.d`. */
  readonly file?: string;
  /** What flags say, which wins over all files. */
  readonly overrides?: {
    readonly root?: string;
    readonly state?: string;
    readonly listen?: string;
    readonly logLevel?: string;
  };
  /** Where to look without --config; a missing file is all defaults. */
  readonly defaultFile?: string;
}

const DEFAULT_FILE = '/etc/berth/berth.toml';

/** Checked values as they stand in the files: `table.key`, or `runtime.handlers.NAME.key`. */
type Values = Map<string, unknown>;

/**
 * Reads the configuration file and its drop-ins in lexical order (later ones win, key by key), then flags. May be
 * called again for a reload. Throws `invalid` naming file, line and key, for an unknown key with the nearest known one.
 */
export function loadConfig(sources: ConfigSources = {}): Config {
  const file = sources.file ?? sources.defaultFile ?? DEFAULT_FILE;
  const values: Values = new Map();
  const read: string[] = [];
  for (const path of [file, ...dropIns(`${file}.d`)]) {
    const text = readConfigFile(path, path === file && sources.file === undefined);
    if (text === undefined) continue;
    readValues(path, text, values);
    read.push(path);
  }
  applyFlags(sources.overrides ?? {}, values);
  return toConfig(values, read);
}

function readConfigFile(path: string, mayBeMissing: boolean): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (err) {
    const code = err instanceof Error && 'code' in err ? err.code : undefined;
    if (code === 'ENOENT' && mayBeMissing) return undefined;
    if (code === 'ENOENT') throw because('invalid', `--config: ${path} does not exist`, err);
    throw wrap(`read configuration ${path}`, err);
  }
}

function dropIns(dir: string): string[] {
  try {
    return readdirSync(dir)
      .filter((name) => name.endsWith('.toml') && !name.startsWith('.'))
      .sort()
      .map((name) => join(dir, name));
  } catch (err) {
    if (err instanceof Error && 'code' in err && (err.code === 'ENOENT' || err.code === 'ENOTDIR')) return [];
    throw wrap(`list configuration drop-ins in ${dir}`, err);
  }
}

function readValues(file: string, text: string, values: Values): void {
  const document = parseToml(file, text);
  const lines = keyLines(text);
  const fail = (path: string, problem: string): never => {
    throw invalid(`${file}:${lines.get(path) ?? 1}: ${path}`, problem);
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
    values.set(path, value);
  };
  const tableOf = (path: string, value: unknown): Record<string, unknown> =>
    isTable(value) ? value : fail(path, 'expected a table');

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
    if (!HANDLER_NAME.test(handler)) fail(path, 'a handler is named by small letters, digits, - and .');
    values.set(path, true);
    for (const [key, item] of Object.entries(tableOf(path, table))) {
      take(`${path}.${key}`, key, lookUp<KeySpec>(HANDLER_KEYS, key), Object.keys(HANDLER_KEYS), item);
    }
    const hasPath = values.has(`${path}.path`) || Object.hasOwn(DEFAULT_HANDLERS, handler);
    if (!hasPath) fail(path, 'has no path');
  }
}

function parseToml(file: string, text: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (err) {
    if (!(err instanceof TomlError)) throw wrap(`parse ${file}`, err);
    const reason = err.message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    throw because('invalid', `${file}:${err.line}: not TOML: ${reason}`, err);
  }
}

function applyFlags(overrides: NonNullable<ConfigSources['overrides']>, values: Values): void {
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
    values.set(path, value);
  }
}

function toConfig(values: Values, sources: readonly string[]): Config {
  // Each value was checked against its key's kind when it was read, and defaults are checked by a test.
  const get = <T>(path: string, spec: KeySpec): T => (values.get(path) ?? spec.defaultValue) as T;
  const table =
    <T extends keyof typeof TABLES>(name: T) =>
    (key: keyof (typeof TABLES)[T] & string): string =>
      get(`${name}.${key}`, (TABLES[name] as Record<string, KeySpec>)[key] as KeySpec);
  const list = (name: keyof typeof TABLES, key: string): readonly string[] =>
    get(`${name}.${key}`, (TABLES[name] as Record<string, KeySpec>)[key] as KeySpec);
  const [image, cni, runtime, stream, log] = [
    table('image'),
    table('cni'),
    table('runtime'),
    table('stream'),
    table('log'),
  ];
  const root = get<string>('root', TOP_KEYS.root);
  return {
    root,
    state: get('state', TOP_KEYS.state),
    listen: get('listen', TOP_KEYS.listen),
    image: {
      registriesConf: image('registries_conf'),
      registriesConfDir: image('registries_conf_dir'),
      authFile: image('auth_file'),
      signaturePolicy: image('signature_policy'),
      pauseImage: image('pause_image'),
      pinnedImages: list('image', 'pinned_images'),
      maxParallelDownloads: Number(image('max_parallel_downloads')),
      pullTimeoutMs: parseDuration(image('pull_timeout')) ?? 0,
    },
    cni: {
      confDir: cni('conf_dir'),
      binDirs: list('cni', 'bin_dirs'),
      cacheDir: cni('cache_dir') || join(root, 'cni'),
      defaultNetwork: cni('default_network'),
    },
    runtime: {
      defaultRuntime: runtime('default_runtime'),
      cgroupManager: runtime('cgroup_manager') as Config['runtime']['cgroupManager'],
      monitorPath: runtime('monitor_path'),
      defaultCapabilities: list('runtime', 'default_capabilities'),
      pidsLimit: Number(runtime('pids_limit')),
      seccompProfile: runtime('seccomp_profile'),
      handlers: toHandlers(values),
    },
    stream: {
      listen: stream('listen'),
      tlsCert: stream('tls_cert'),
      tlsKey: stream('tls_key'),
      tlsClientCa: stream('tls_client_ca'),
    },
    metrics: { listen: table('metrics')('listen') },
    log: { level: log('level') as LogLevel, format: log('format') as Config['log']['format'] },
    sources,
  };
}

function toHandlers(values: Values): Record<string, HandlerConfig> {
  const configured = [...values.keys()]
    .flatMap((path) => /^runtime\.handlers\.(.+)$/.exec(path)?.[1] ?? [])
    .filter((name) => values.get(`runtime.handlers.${name}`) === true);
  const handlers: Record<string, HandlerConfig> = {};
  for (const name of [...Object.keys(DEFAULT_HANDLERS), ...configured]) {
    const value = (key: keyof typeof HANDLER_KEYS, fallback: string): string =>
      String(values.get(`runtime.handlers.${name}.${key}`) ?? fallback);
    handlers[name] = {
      path: value('path', DEFAULT_HANDLERS[name]?.path ?? ''),
      root: value('root', ''),
      type: value('type', 'oci'),
    };
  }
  return handlers;
}

function suggest(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  return near === undefined ? `; known here: ${known.join(', ')}` : `; did you mean ${near}?`;
}

function lookUp<V>(table: Readonly<Record<string, V>>, name: string): V | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
