import * as v from 'valibot';

import { invalid } from '../base/errors.ts';
import { type CniVersion, cniVersions, newestKnown } from './cni-version.ts';
import { checkJson, type JsonObject, jsonFromText, jsonObject } from './json.ts';

/** One plugin of a network, as its configuration says. */
export interface PluginConfig {
  /** The file name of its program. */
  readonly type: string;
  /** What it wants in `runtimeConfig`. */
  readonly capabilities: readonly string[];
  /** The whole object: what Berth does not know belongs to the plugin. */
  readonly body: JsonObject;
}

/** One network: an ordered chain of plugins (CNI specification 1.1, section 1). */
export interface NetworkConfig {
  readonly name: string;
  readonly cniVersion: CniVersion;
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  /** False: plugin files in a folder with the network's name, beside the file, are appended. */
  readonly loadOnlyInlinedPlugins: boolean;
  readonly plugins: readonly PluginConfig[];
}

const PLUGINS_LIMIT = 64;
// It becomes part of a file name, together with a container id and an interface name.
const NAME_LIMIT_CHARS = 100;
const safeName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

const nameSchema = v.pipe(
  v.string('must be a string'),
  v.regex(safeName, 'must be letters, digits, "_", "." and "-", and start with a letter or digit'),
  v.maxLength(NAME_LIMIT_CHARS, `must not be longer than ${NAME_LIMIT_CHARS} characters`),
);

// Plugins' Go library takes strings for booleans too.
const flagSchema = v.optional(
  v.union(
    [
      v.boolean(),
      v.pipe(
        v.string(),
        v.toLowerCase(),
        v.picklist(['true', 'false']),
        v.transform((text) => text === 'true'),
      ),
    ],
    'must be true or false',
  ),
  false,
);

const networkSchema = v.object({
  name: nameSchema,
  cniVersion: v.optional(v.string('must be a string'), ''),
  cniVersions: v.optional(v.array(v.string('must be a string'), 'must be a list'), []),
  disableCheck: flagSchema,
  disableGC: flagSchema,
  loadOnlyInlinedPlugins: flagSchema,
  plugins: v.optional(
    v.pipe(
      v.array(jsonObject, 'must be a list'),
      v.minLength(1, 'must not be empty'),
      v.maxLength(PLUGINS_LIMIT, `must not have more than ${PLUGINS_LIMIT} plugins`),
    ),
  ),
  type: v.optional(v.string('must be a string')),
});

const pluginSchema = v.object({
  type: nameSchema,
  capabilities: v.nullish(v.record(v.string(), v.boolean('must be true or false'), 'must be an object'), {}),
});

/**
 * Reads a network configuration file. A single plugin (the older `.conf` form) becomes a list of one. The list may be
 * empty when plugins may come from the network's folder. Throws `invalid` that names the key.
 */
export function parseNetworkConfig(text: string): NetworkConfig {
  return networkConfigFromJson(jsonFromText(text, 'file'));
}

/** As parseNetworkConfig, of a parsed value. */
export function networkConfigFromJson(value: unknown): NetworkConfig {
  const body = checkJson(jsonObject, value, 'file');
  const fields = checkJson(networkSchema, body, 'file');
  if (!fields.plugins && fields.type === undefined && fields.loadOnlyInlinedPlugins) {
    throw invalid('plugins', 'is missing, and loadOnlyInlinedPlugins is true');
  }
  // Without a list it is one plugin, or a network whose plugins all come from its folder.
  const single = fields.type === undefined ? [] : [body];
  return {
    name: fields.name,
    cniVersion: selectVersion(fields.cniVersion, fields.cniVersions),
    disableCheck: fields.disableCheck,
    disableGc: fields.disableGC,
    loadOnlyInlinedPlugins: fields.loadOnlyInlinedPlugins || (!fields.plugins && single.length > 0),
    plugins: (fields.plugins ?? single).map((plugin, index) =>
      pluginFromJson(plugin, fields.plugins ? `plugins.${index}` : ''),
    ),
  };
}

/** Reads a file that holds one plugin of a network's folder. Throws `invalid` that names the key. */
export function parsePluginConfig(text: string): PluginConfig {
  return pluginFromJson(jsonFromText(text, 'file'), '');
}

/** The configuration as JSON that networkConfigFromJson reads back as the same. */
export function networkConfigToJson(network: NetworkConfig): JsonObject {
  return {
    name: network.name,
    cniVersion: network.cniVersion,
    disableCheck: network.disableCheck,
    disableGC: network.disableGc,
    loadOnlyInlinedPlugins: network.loadOnlyInlinedPlugins,
    plugins: network.plugins.map((plugin) => plugin.body),
  };
}

function pluginFromJson(value: unknown, path: string): PluginConfig {
  const body = checkJson(jsonObject, value, path || 'file');
  const checked = v.safeParse(pluginSchema, body);
  if (!checked.success) {
    const [issue] = checked.issues;
    throw invalid([path, v.getDotPath(issue)].filter(Boolean).join('.'), issue.message);
  }
  const { type, capabilities } = checked.output;
  const wanted = Object.entries(capabilities ?? {}).filter(([, isWanted]) => isWanted);
  return { type, capabilities: wanted.map(([name]) => name), body: withoutReserved(body) };
}

// Keys that only a runtime may set, anew in each call.
function withoutReserved(body: JsonObject): JsonObject {
  const isReserved = (key: string): boolean =>
    key === 'runtimeConfig' || key === 'prevResult' || key.startsWith('cni.dev/');
  if (!Object.keys(body).some(isReserved)) return body;
  return Object.fromEntries(Object.entries(body).filter(([key]) => !isReserved(key)));
}

function selectVersion(cniVersion: string, others: readonly string[]): CniVersion {
  const offered = [cniVersion, ...others].filter((version) => version !== '');
  const version = newestKnown(offered);
  if (version) return version;
  const known = `Berth speaks ${cniVersions.join(', ')}`;
  if (offered.length === 0) throw invalid('cniVersion', `is missing; ${known}`);
  throw invalid(
    'cniVersion',
    `${offered
      .slice(0, 5)
      .map((text) => JSON.stringify(text.slice(0, 20)))
      .join(', ')} is not supported; ${known}`,
  );
}
