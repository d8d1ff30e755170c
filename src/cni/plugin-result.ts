import { isIP } from 'node:net';

import * as v from 'valibot';

import { invalid } from '../base/errors.ts';
import { type CniVersion, cniVersions, isAtLeast, isCniVersion } from './cni-version.ts';
import { checkJson, jsonObject, parseJson } from './json.ts';

/** What a network gave a pod, whichever version of the protocol its plugins speak. */
export interface CniResult {
  readonly network: string;
  /** The addresses of the pod's side, in the plugins' order. */
  readonly ips: readonly CniAddress[];
  readonly interfaces: readonly CniInterface[];
  /** The hardware address of the interface that was asked for. */
  readonly mac?: string;
}

export interface CniAddress {
  /** Without its prefix length. */
  readonly address: string;
  readonly prefixLength: number;
  readonly gateway?: string;
}

export interface CniInterface {
  readonly name: string;
  readonly mac?: string;
  /** The network namespace it is in; without one it is the host's. */
  readonly netns?: string;
}

const optionalText = v.nullish(v.string('must be a string'));

const addressSchema = v.looseObject({
  address: v.pipe(v.string('must be a string'), v.check(isCidr, 'must be an address with a prefix length')),
  gateway: v.nullish(
    v.pipe(
      v.string('must be a string'),
      v.check((text) => text === '' || isIP(text) !== 0, 'must be an address'),
    ),
  ),
  interface: v.nullish(
    v.pipe(v.number('must be a number'), v.integer('must be an index'), v.minValue(0, 'must be an index')),
  ),
});

const fieldsSchema = v.looseObject({
  cniVersion: optionalText,
  interfaces: v.nullish(
    v.array(v.looseObject({ name: v.string('must be a string'), mac: optionalText, sandbox: optionalText })),
  ),
  ips: v.nullish(v.array(addressSchema, 'must be a list')),
  routes: v.nullish(v.array(v.looseObject({ dst: v.string('must be a string') }), 'must be a list')),
  dns: v.nullish(v.looseObject({}, 'must be an object')),
});

// The field check alone would take a list for an object.
const resultSchema = v.pipe(jsonObject, fieldsSchema);

/** A plugin's result as it goes over the wire, in the version of its network; the next plugin gets it. */
export type WireResult = v.InferOutput<typeof resultSchema>;

/**
 * Reads what a plugin printed after ADD, and puts it in `version`, which the network has. Throws `invalid` that names
 * the field.
 */
export function parsePluginResult(text: string, version: CniVersion): WireResult {
  const result = parseJson(resultSchema, text, 'result');
  // Some plugins print their error and still exit with 0.
  if (typeof result['code'] === 'number' && result['msg'] !== undefined && !result.ips && !result.interfaces) {
    throw invalid('result', `is an error: code ${result['code']}: ${String(result['msg'])}`);
  }
  return inVersion(checkResult(result), version);
}

/** Checks a result that was kept. Throws `invalid` that names the field. */
export function wireResultFromJson(value: unknown): WireResult {
  return checkResult(checkJson(resultSchema, value, 'result'));
}

/** The domain form of a result. Addresses of host-side interfaces are left out. */
export function cniResult(wire: WireResult, network: string, ifName: string): CniResult {
  const interfaces = (wire.interfaces ?? []).map(
    ({ name, mac, sandbox }): CniInterface => ({
      name,
      ...(mac ? { mac } : {}),
      ...(sandbox ? { netns: sandbox } : {}),
    }),
  );
  const mac = interfaces.find((one) => one.name === ifName && one.netns)?.mac;
  const ips = (wire.ips ?? []).filter((ip) => ip.interface == null || interfaces[ip.interface]?.netns !== undefined);
  return { network, ips: ips.map(cniAddress), interfaces, ...(mac ? { mac } : {}) };
}

function cniAddress({ address, gateway }: { address: string; gateway?: string | null | undefined }): CniAddress {
  const [ip = '', prefix = ''] = address.split('/');
  return { address: ip, prefixLength: Number(prefix), ...(gateway ? { gateway } : {}) };
}

function checkResult(result: WireResult): WireResult {
  const { cniVersion } = result;
  if (cniVersion && !isCniVersion(cniVersion)) {
    throw invalid('cniVersion', `${JSON.stringify(cniVersion.slice(0, 20))} is not one of ${cniVersions.join(', ')}`);
  }
  const count = result.interfaces?.length ?? 0;
  for (const [index, ip] of (result.ips ?? []).entries()) {
    if (ip.interface != null && ip.interface >= count) {
      throw invalid(`ips.${index}.interface`, `is ${ip.interface}, and there are ${count} interfaces`);
    }
  }
  return result;
}

// From 1.0 on an address has no version of its own; before, it must have one.
function inVersion(result: WireResult, version: CniVersion): WireResult {
  const ips = (result.ips ?? []).map((ip) => {
    const { version: _dropped, ...rest } = ip;
    return isAtLeast(version, '1.0.0') ? rest : { ...rest, version: String(isIP(ip.address.split('/')[0] ?? '')) };
  });
  return { ...result, cniVersion: version, ...(result.ips ? { ips } : {}) };
}

function isCidr(text: string): boolean {
  const [ip = '', prefix = '', ...more] = text.split('/');
  const family = isIP(ip);
  if (family === 0 || more.length > 0 || !/^\d{1,3}$/.test(prefix)) return false;
  return Number(prefix) <= (family === 4 ? 32 : 128);
}
