import { isIP } from 'node:net';

import { findCause } from '../base/errors.ts';
import type { AttachmentKey } from './attachment.ts';
import { runtimeConfig } from './capability-args.ts';
import { CniError, cniCodes } from './cni-error.ts';
import { type CniVerb, isAtLeast } from './cni-version.ts';
import type { JsonObject } from './json.ts';
import type { NetworkConfig, PluginConfig } from './network-config.ts';
import { parsePluginResult, type WireResult } from './plugin-result.ts';
import { type PluginCall, type PluginRunner, unusableOutput } from './plugin-runner.ts';

/** An attachment with all that its plugins were given: what DEL must hand them again. */
export interface Attached extends AttachmentKey {
  readonly netns: string;
  /** The configuration of ADD time: the file may have changed since. */
  readonly network: NetworkConfig;
  readonly cniArgs: string;
  readonly capabilityArgs: JsonObject;
  /** Undefined while ADD has not succeeded. */
  readonly result?: WireResult;
}

/** Runs a network's plugins in their order (CNI specification 1.1, section 3). */
export class PluginChain {
  readonly #runner: PluginRunner;

  constructor(runner: PluginRunner) {
    this.#runner = runner;
  }

  /** Runs ADD from first to last, each with the result of the one before. Throws a CniError. */
  async add(attached: Attached, signal: AbortSignal): Promise<WireResult> {
    const { network } = attached;
    let result: WireResult | undefined;
    for (const plugin of network.plugins) {
      const call = attachmentCall('ADD', attached, plugin, result);
      const printed = await this.#runner.run(call, signal);
      result = readResult(call, printed);
    }
    return result ?? { cniVersion: network.cniVersion };
  }

  /** Runs DEL from last to first, and stops at the first that fails: what it uses must still be there next time. */
  async del(attached: Attached, signal: AbortSignal): Promise<void> {
    for (const plugin of attached.network.plugins.toReversed()) {
      await this.#del(attached, plugin, signal);
    }
  }

  /** Runs DEL from last to first, past those that fail, after an ADD that failed halfway. Returns the failures. */
  async delAll(attached: Attached, signal: AbortSignal): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const plugin of attached.network.plugins.toReversed()) {
      await this.#del(attached, plugin, signal).catch((err: unknown) => {
        // It is why the ADD failed, or it would have come after what did: either way it made nothing.
        if (!(err instanceof CniError && err.isProgramMissing)) failures.push(err);
      });
    }
    return failures;
  }

  /** Runs CHECK from first to last. Nothing when the version has none, or the configuration forbids it. */
  async check(attached: Attached, signal: AbortSignal): Promise<void> {
    const { network, result } = attached;
    if (network.disableCheck || !isAtLeast(network.cniVersion, '0.4.0')) return;
    for (const plugin of network.plugins) {
      try {
        await this.#runner.run(attachmentCall('CHECK', attached, plugin, result), signal);
      } catch (err) {
        if (!missesOtherFamily(err, result)) throw err;
      }
    }
  }

  /** Runs STATUS from first to last: can the network take an ADD now? Nothing when the version has none. */
  async status(network: NetworkConfig, signal: AbortSignal): Promise<void> {
    if (!isAtLeast(network.cniVersion, '1.1.0')) return;
    for (const plugin of network.plugins) {
      await this.#runner.run({ verb: 'STATUS', network, plugin, additions: {}, env: {} }, signal);
    }
  }

  /** Runs GC on all plugins of a network that has it, past those that fail. Returns the failures. */
  async gc(network: NetworkConfig, valid: readonly AttachmentKey[], signal: AbortSignal): Promise<unknown[]> {
    const attachments = valid.map(({ containerId, ifName }) => ({ containerID: containerId, ifname: ifName }));
    // The second key is what plugins of the first 1.1 releases read, before the specification's name was settled.
    const additions = { 'cni.dev/valid-attachments': attachments, 'cni.dev/attachments': attachments };
    const failures: unknown[] = [];
    for (const plugin of network.plugins) {
      await this.#runner
        .run({ verb: 'GC', network, plugin, additions, env: {} }, signal)
        .catch((err: unknown) => failures.push(err));
    }
    return failures;
  }

  async #del(attached: Attached, plugin: PluginConfig, signal: AbortSignal): Promise<void> {
    const result = isAtLeast(attached.network.cniVersion, '0.4.0') ? attached.result : undefined;
    try {
      await this.#runner.run(attachmentCall('DEL', attached, plugin, result), signal);
    } catch (err) {
      // The specification: with this code there is nothing to clean up.
      if (findCause(err, CniError)?.code !== cniCodes.containerUnknown) throw err;
    }
  }
}

/**
 * Whether the plugin portmap misses rules of an IP version of which the pod has no address, and which its ADD did not
 * make: up to 1.2 it looks for both (containernetworking/plugins issue 819), for those of IPv4 first. Of a pod with IPv6
 * alone it has looked at nothing then; of one with both, what it misses cannot be told from what is missing.
 */
function missesOtherFamily(err: unknown, result: WireResult | undefined): boolean {
  const failure = findCause(err, CniError);
  if (failure?.plugin !== 'portmap') return false;
  const version = /could not check ipv([46]) dnat/.exec(failure.message)?.[1];
  const addresses = result?.ips?.map(({ address }) => address.split('/', 1)[0] ?? '') ?? [];
  return (
    version !== undefined && addresses.length > 0 && !addresses.some((address) => String(isIP(address)) === version)
  );
}

/** Whether a network's plugins may be asked to clean up by themselves. */
export function hasGc(network: NetworkConfig): boolean {
  return !network.disableGc && isAtLeast(network.cniVersion, '1.1.0');
}

function attachmentCall(
  verb: CniVerb,
  attached: Attached,
  plugin: PluginConfig,
  prevResult: WireResult | undefined,
): PluginCall {
  const { network, containerId, netns, ifName, cniArgs } = attached;
  const config = runtimeConfig(attached.capabilityArgs, plugin);
  return {
    verb,
    network,
    plugin,
    additions: { ...(config ? { runtimeConfig: config } : {}), ...(prevResult ? { prevResult } : {}) },
    env: { CNI_CONTAINERID: containerId, CNI_NETNS: netns, CNI_IFNAME: ifName, CNI_ARGS: cniArgs },
  };
}

function readResult(call: PluginCall, printed: string): WireResult {
  try {
    return parsePluginResult(printed, call.network.cniVersion);
  } catch (err) {
    throw unusableOutput(call, err);
  }
}
