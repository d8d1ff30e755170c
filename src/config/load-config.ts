import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { because, wrap } from '../base/errors.ts';
import { checkTogether, handlerNames } from './check-together.ts';
import { parseDuration } from './check-value.ts';
import { ConfigProblems } from './config-problems.ts';
import { applyFlags, type FlagValues, readValues, type Values } from './read-values.ts';
import { DEFAULT_HANDLERS, HANDLER_KEYS, type KeySpec, TABLES, TOP_KEYS } from './schema.ts';

/** The configuration of one berthd, all defaults filled in. */
export interface Config {
  readonly root: string;
  readonly state: string;
  readonly listen: string;
  readonly image: {
    readonly registriesConf: string;
    readonly registriesConfDir: string;
    readonly shortNameAliases: string;
    readonly hostsDirs: readonly string[];
    readonly certsDirs: readonly string[];
    readonly authFile: string;
    readonly namespacedAuthDir: string;
    readonly signaturePolicy: string;
    readonly signaturePolicyMayBeMissing: boolean;
    readonly signaturePolicyDir: string;
    readonly lookasideDir: string;
    readonly acceptUnnamedSignatures: boolean;
    readonly pauseImage: string;
    readonly pinnedImages: readonly string[];
    readonly maxParallelDownloads: number;
    readonly pullTimeoutMs: number;
    readonly maxLayerGib: number;
    readonly maxLayerFiles: number;
    readonly layerDevices: 'allow' | 'skip' | 'refuse';
  };
  readonly cni: {
    readonly confDir: string;
    readonly binDirs: readonly string[];
    readonly cacheDir: string;
    readonly defaultNetwork: string;
    readonly confTemplate: string;
    readonly spareNetworks: number;
    readonly lateClose: boolean;
  };
  readonly runtime: {
    readonly defaultRuntime: string;
    readonly cgroupManager: 'auto' | 'cgroupfs' | 'systemd';
    readonly monitorPath: string;
    readonly defaultCapabilities: readonly string[];
    readonly pidsLimit: number;
    readonly volatileRootfs: boolean;
    readonly seccompProfile: string;
    readonly apparmorProfile: string;
    readonly selinux: boolean;
    readonly cdiSpecDirs: readonly string[];
    readonly hooksDirs: readonly string[];
    readonly defaultEnv: readonly string[];
    readonly defaultSysctls: readonly string[];
    readonly defaultUlimits: readonly string[];
    readonly handlers: Readonly<Record<string, HandlerConfig>>;
  };
  readonly stream: {
    readonly listen: string;
    readonly tlsCert: string;
    readonly tlsKey: string;
    readonly tlsClientCa: string;
  };
  readonly cluster: { readonly kubeconfig: string; readonly nodeName: string; readonly events: boolean };
  readonly metrics: {
    readonly listen: string;
    readonly socket: string;
    readonly tlsCert: string;
    readonly tlsKey: string;
    readonly tlsClientCa: string;
  };
  readonly tracing: {
    readonly endpoint: string;
    readonly samplingRatePerMillion: number;
    readonly tls: boolean;
    readonly tlsCa: string;
    readonly tlsCert: string;
    readonly tlsKey: string;
  };
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
  /** Names and patterns of annotations that reach the runtime. */
  readonly annotations: readonly string[];
  readonly privilegedWithoutHostDevices: boolean;
}

/** Where the configuration comes from. */
export interface ConfigSources {
  /** Given by --config: it must be there, and its drop-ins are in `<file>.d`. */
  readonly file?: string;
  /** What flags say, which wins over all files. */
  readonly overrides?: FlagValues;
  /** Where to look without --config; a missing file is all defaults. */
  readonly defaultFile?: string;
}

/** Where the configuration is when --config names no file. */
export const DEFAULT_FILE = '/etc/berth/berth.toml';

/**
 * Reads the configuration file and its drop-ins in lexical order (later ones win, key by key), then flags. May be
 * called again for a reload. Throws a ConfigError with all mistakes, each naming file, line and key, for an unknown key
 * with the nearest known one.
 */
export function loadConfig(sources: ConfigSources = {}): Config {
  const file = sources.file ?? sources.defaultFile ?? DEFAULT_FILE;
  const values: Values = new Map();
  const problems = new ConfigProblems();
  const read: string[] = [];
  for (const path of [file, ...dropIns(`${file}.d`)]) {
    const text = readConfigFile(path, path === file && sources.file === undefined);
    if (text === undefined) continue;
    readValues(path, text, values, problems);
    read.push(path);
  }
  applyFlags(sources.overrides ?? {}, values, problems);
  checkTogether(values, problems);
  problems.throwIfAny();
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

function toConfig(values: Values, sources: readonly string[]): Config {
  // Each value was checked against its key's kind when it was read, and defaults are checked by a test.
  const get = <T>(path: string, spec: KeySpec): T => (values.get(path)?.value ?? spec.defaultValue) as T;
  const table =
    <T extends keyof typeof TABLES>(name: T) =>
    (key: keyof (typeof TABLES)[T] & string): string =>
      get(`${name}.${key}`, (TABLES[name] as Record<string, KeySpec>)[key] as KeySpec);
  const list = (name: keyof typeof TABLES, key: string): readonly string[] =>
    get(`${name}.${key}`, (TABLES[name] as Record<string, KeySpec>)[key] as KeySpec);
  const [image, cni, runtime, stream, metrics, tracing, log] = [
    table('image'),
    table('cni'),
    table('runtime'),
    table('stream'),
    table('metrics'),
    table('tracing'),
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
      shortNameAliases: image('short_name_aliases'),
      hostsDirs: list('image', 'hosts_dirs'),
      certsDirs: list('image', 'certs_dirs'),
      authFile: image('auth_file'),
      namespacedAuthDir: image('namespaced_auth_dir'),
      signaturePolicy: image('signature_policy'),
      signaturePolicyMayBeMissing: image('signature_policy') === TABLES.image.signature_policy.defaultValue,
      signaturePolicyDir: image('signature_policy_dir'),
      lookasideDir: image('lookaside_dir'),
      acceptUnnamedSignatures: get('image.accept_unnamed_signatures', TABLES.image.accept_unnamed_signatures),
      pauseImage: image('pause_image'),
      pinnedImages: list('image', 'pinned_images'),
      maxParallelDownloads: Number(image('max_parallel_downloads')),
      pullTimeoutMs: parseDuration(image('pull_timeout')) ?? 0,
      maxLayerGib: Number(image('max_layer_gib')),
      maxLayerFiles: Number(image('max_layer_files')),
      layerDevices: image('layer_devices') as Config['image']['layerDevices'],
    },
    cni: {
      confDir: cni('conf_dir'),
      binDirs: list('cni', 'bin_dirs'),
      cacheDir: cni('cache_dir') || join(root, 'cni'),
      defaultNetwork: cni('default_network'),
      confTemplate: cni('conf_template'),
      spareNetworks: Number(cni('spare_networks')),
      lateClose: get('cni.late_close', TABLES.cni.late_close),
    },
    runtime: {
      defaultRuntime: runtime('default_runtime'),
      cgroupManager: runtime('cgroup_manager') as Config['runtime']['cgroupManager'],
      monitorPath: runtime('monitor_path'),
      defaultCapabilities: list('runtime', 'default_capabilities'),
      pidsLimit: Number(runtime('pids_limit')),
      volatileRootfs: get('runtime.volatile_rootfs', TABLES.runtime.volatile_rootfs),
      seccompProfile: runtime('seccomp_profile'),
      apparmorProfile: runtime('apparmor_profile'),
      selinux: get('runtime.selinux', TABLES.runtime.selinux),
      cdiSpecDirs: list('runtime', 'cdi_spec_dirs'),
      hooksDirs: list('runtime', 'hooks_dirs'),
      defaultEnv: list('runtime', 'default_env'),
      defaultSysctls: list('runtime', 'default_sysctls'),
      defaultUlimits: list('runtime', 'default_ulimits'),
      handlers: toHandlers(values),
    },
    stream: {
      listen: stream('listen'),
      tlsCert: stream('tls_cert'),
      tlsKey: stream('tls_key'),
      tlsClientCa: stream('tls_client_ca'),
    },
    cluster: {
      kubeconfig: table('cluster')('kubeconfig'),
      nodeName: table('cluster')('node_name'),
      events: get('cluster.events', TABLES.cluster.events),
    },
    metrics: {
      listen: metrics('listen'),
      socket: metrics('socket'),
      tlsCert: metrics('tls_cert'),
      tlsKey: metrics('tls_key'),
      tlsClientCa: metrics('tls_client_ca'),
    },
    tracing: {
      endpoint: tracing('endpoint'),
      samplingRatePerMillion: Number(tracing('sampling_rate_per_million')),
      tls: get('tracing.tls', TABLES.tracing.tls),
      tlsCa: tracing('tls_ca'),
      tlsCert: tracing('tls_cert'),
      tlsKey: tracing('tls_key'),
    },
    log: { level: log('level') as LogLevel, format: log('format') as Config['log']['format'] },
    sources,
  };
}

function toHandlers(values: Values): Record<string, HandlerConfig> {
  const handlers: Record<string, HandlerConfig> = {};
  for (const name of handlerNames(values)) {
    const get = <T>(key: keyof typeof HANDLER_KEYS): T =>
      (values.get(`runtime.handlers.${name}.${key}`)?.value ?? HANDLER_KEYS[key].defaultValue) as T;
    handlers[name] = {
      path: get<string>('path') || (DEFAULT_HANDLERS[name]?.path ?? ''),
      root: get('root'),
      type: get('type'),
      annotations: get('annotations'),
      privilegedWithoutHostDevices: get('privileged_without_host_devices'),
    };
  }
  return handlers;
}
