import { isDeepStrictEqual } from 'node:util';

import { valueAt } from './describe-config.ts';
import type { Config } from './load-config.ts';
import { HANDLER_KEYS, type KeySpec, TABLES, TOP_KEYS } from './schema.ts';

/** Keys that differ between two configurations, by their paths in the file. */
export interface ConfigChanges {
  /** What a running berthd takes over. */
  readonly live: readonly string[];
  /** What waits for a restart. */
  readonly waiting: readonly string[];
}

/** All keys with a value of their own, handlers' as `runtime.handlers.*.KEY`. */
export function allKeys(): [path: string, spec: KeySpec][] {
  return [
    ...Object.entries<KeySpec>(TOP_KEYS),
    ...Object.entries(TABLES).flatMap(([table, keys]) =>
      Object.entries<KeySpec>(keys).map(([key, spec]): [string, KeySpec] => [`${table}.${key}`, spec]),
    ),
    ...Object.entries<KeySpec>(HANDLER_KEYS).map(([key, spec]): [string, KeySpec] => [
      `runtime.handlers.*.${key}`,
      spec,
    ]),
  ];
}

/** What is different. A handler that has come or gone is `runtime.handlers.NAME`. */
export function compareConfigs(running: Config, next: Config): ConfigChanges {
  const changed: { path: string; reload: KeySpec['reload'] }[] = [];
  for (const [path, spec] of allKeys()) {
    if (path.includes('*')) continue;
    if (!isDeepStrictEqual(valueAt(running, path, spec), valueAt(next, path, spec)))
      changed.push({ path, reload: spec.reload });
  }
  const names = new Set([...Object.keys(running.runtime.handlers), ...Object.keys(next.runtime.handlers)]);
  for (const name of names) {
    const [before, after] = [running, next].map(({ runtime }) => runtime.handlers[name]);
    const path = `runtime.handlers.${name}`;
    if (!isDeepStrictEqual(before, after)) changed.push({ path, reload: 'live' });
  }
  const of = (reload: KeySpec['reload']): string[] =>
    changed.filter((change) => change.reload === reload).map((change) => change.path);
  return { live: of('live'), waiting: of('restart') };
}

/** What is in force when `next` has been taken over: keys that need a restart are as they were. */
export function inForce(running: Config, next: Config): Config {
  return {
    ...next,
    root: running.root,
    state: running.state,
    listen: running.listen,
    image: {
      ...running.image,
      pinnedImages: next.image.pinnedImages,
      maxParallelDownloads: next.image.maxParallelDownloads,
      pullTimeoutMs: next.image.pullTimeoutMs,
      namespacedAuthDir: next.image.namespacedAuthDir,
      pauseImage: next.image.pauseImage,
    },
    cni: {
      ...next.cni,
      cacheDir: running.cni.cacheDir,
      confTemplate: running.cni.confTemplate,
      lateClose: running.cni.lateClose,
    },
    runtime: {
      ...next.runtime,
      cgroupManager: running.runtime.cgroupManager,
      monitorPath: running.runtime.monitorPath,
      selinux: running.runtime.selinux,
      volatileRootfs: running.runtime.volatileRootfs,
    },
    stream: running.stream,
    cluster: running.cluster,
  };
}

/** The keys for docs/operations.md: which a running berthd takes over, and which need a restart. */
export function renderReloadTable(): string {
  const rows = allKeys().map(([path, { reload }]) => [`\`${path}\``, reload === 'live' ? 'at once' : 'restart']);
  const table = [['Key', 'Change'], ...rows];
  const widths = [0, 1].map((column) => Math.max(...table.map((row) => (row[column] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const [head = [], ...body] = table;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...body.map(line)].join('\n');
}
