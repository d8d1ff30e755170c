import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { extname, join } from 'node:path';

import { describe, invalid } from '../base/errors.ts';
import { type NetworkConfig, type PluginConfig, parseNetworkConfig, parsePluginConfig } from './network-config.ts';
import { readSmallFile } from './small-file.ts';

/** A network and the file that it comes from. */
export interface ConfiguredNetwork {
  readonly file: string;
  readonly network: NetworkConfig;
}

/** A file that is no use, and why. */
export interface SkippedFile {
  readonly file: string;
  readonly problem: string;
}

/** What a folder of network configurations holds. */
export interface ConfDir {
  readonly exists: boolean;
  /** In the lexical order of their files. */
  readonly networks: readonly ConfiguredNetwork[];
  readonly skipped: readonly SkippedFile[];
  /** The folders that networks take plugins from, there or not, also those of skipped files. */
  readonly pluginFolders: readonly string[];
}

/** What a folder holds that has not been read, or is not there. */
export const emptyConfDir: ConfDir = Object.freeze({ exists: false, networks: [], skipped: [], pluginFolders: [] });

const networkSuffixes: readonly string[] = ['.conf', '.conflist', '.json'];

/**
 * Reads all network configurations of a folder, in lexical order of their names, and the plugin files of those that
 * take them from a folder of their own (CNI 1.1, loadOnlyInlinedPlugins). Bad files are skipped, never thrown.
 */
export async function readConfDir(dir: string): Promise<ConfDir> {
  const names = await listFiles(dir, networkSuffixes).catch((err: unknown) => {
    if (isMissing(err)) return undefined;
    return describe(err);
  });
  if (names === undefined) return emptyConfDir;
  if (typeof names === 'string') {
    return { ...emptyConfDir, exists: true, skipped: [{ file: dir, problem: names }] };
  }
  const networks: ConfiguredNetwork[] = [];
  const skipped: SkippedFile[] = [];
  const pluginFolders: string[] = [];
  for (const name of names) {
    try {
      const network = await readNetwork(dir, name, pluginFolders);
      const twin = networks.find((one) => one.network.name === network.name);
      if (twin) throw invalid('name', `network "${network.name}" is already in ${twin.file}`);
      networks.push({ file: name, network });
    } catch (err) {
      // It went between the listing and the reading: that is an event of its own.
      if (!isMissing(err)) skipped.push({ file: name, problem: describe(err) });
    }
  }
  return { exists: true, networks, skipped, pluginFolders };
}

async function readNetwork(dir: string, name: string, pluginFolders: string[]): Promise<NetworkConfig> {
  const network = parseNetworkConfig(await readSmallFile(join(dir, name)));
  const plugins = [...network.plugins];
  if (!network.loadOnlyInlinedPlugins) {
    pluginFolders.push(join(dir, network.name));
    plugins.push(...(await readPlugins(dir, network.name)));
  }
  if (plugins.length === 0)
    throw invalid('plugins', `is missing, and there are no plugin files in the folder ${network.name}`);
  return { ...network, plugins };
}

async function readPlugins(dir: string, network: string): Promise<PluginConfig[]> {
  const folder = join(dir, network);
  const names = await listFiles(folder, ['.conf']).catch((err: unknown) => {
    if (isMissing(err)) return [];
    throw err;
  });
  const plugins: PluginConfig[] = [];
  for (const name of names) {
    try {
      plugins.push(parsePluginConfig(await readSmallFile(join(folder, name))));
    } catch (err) {
      // Without one of its plugins the network would be another one than was asked for.
      throw invalid(`${network}/${name}`, describe(err));
    }
  }
  return plugins;
}

async function listFiles(dir: string, suffixes: readonly string[]): Promise<string[]> {
  const entries: Dirent[] = await readdir(dir, { withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory() && suffixes.includes(extname(entry.name)))
    .map((entry) => entry.name)
    .sort();
}

function isMissing(err: unknown): boolean {
  return err instanceof Error && 'code' in err && (err.code === 'ENOENT' || err.code === 'ENOTDIR');
}
