import * as v from 'valibot';

import { interfaceIndex } from '../sys/interface-index.ts';
import type { AttachmentKey } from './attachment.ts';
import { jsonObject } from './json.ts';
import type { NetworkConfig, PluginConfig } from './network-config.ts';
import type { WireResult } from './plugin-result.ts';

/** A network namespace that is attached already, for a pod that is yet to come. */
export interface SpareAttachment extends AttachmentKey {
  readonly netns: string;
  /** The host's side, by name: a bridge, the outer end of a veth pair. */
  readonly links: ReadonlyMap<string, number>;
}

/** They make the same of every pod that has no capability arguments; chained ones see nothing but the first one's result. */
const FIRST_PLUGINS = new Set(['bridge', 'ptp']);
const CHAINED_PLUGINS = new Set(['portmap', 'firewall', 'tuning', 'bandwidth']);

/**
 * Whether a network can be attached before it is known to which pod: all of its plugins are of the CNI project, and ones
 * that do not read a pod's name. Others choose addresses and policies by it.
 */
export function ignoresPodNames({ plugins: [first, ...chained] }: NetworkConfig): boolean {
  if (!first || !FIRST_PLUGINS.has(first.type) || ipamOf(first) !== 'host-local') return false;
  return chained.every(({ type }) => CHAINED_PLUGINS.has(type));
}

/** The host's interfaces of a result, with the numbers that they have now. */
export function linksOf(result: WireResult): ReadonlyMap<string, number> {
  const names = (result.interfaces ?? []).filter(({ sandbox }) => !sandbox).map(({ name }) => name);
  return new Map(names.map((name) => [name, interfaceIndex(name)]));
}

/** Whether the host's side is as it was made. Who deletes the bridge, as people do to begin anew, takes it down. */
export function isLinked({ links }: SpareAttachment): boolean {
  return [...links].every(([name, index]) => index !== 0 && interfaceIndex(name) === index);
}

function ipamOf({ body }: PluginConfig): unknown {
  const ipam = body['ipam'];
  return v.is(jsonObject, ipam) ? ipam['type'] : undefined;
}
