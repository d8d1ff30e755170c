import { isAscii } from 'node:buffer';

import type { ServiceDefinition } from '@grpc/grpc-js';

import { type BerthError, invalid } from '../base/errors.ts';

/** Stands where a request would be, for bytes that are none. */
export class BadRequest {
  readonly error: BerthError;

  constructor(error: BerthError) {
    this.error = error;
  }
}

/**
 * The definition of a service whose methods are handed a BadRequest for bytes that are not their request: left to itself
 * gRPC calls that Internal, and no handler, log or metric hears of it. Text that is not UTF-8 is such a case too
 * (proto3: "a string must always contain UTF-8 encoded text"); the decoder would put U+FFFD in its place, and names,
 * paths and ids would silently be others than the client meant.
 */
export function readingCarefully(definition: ServiceDefinition): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, method]) => [
      name,
      { ...method, requestDeserialize: (bytes: Buffer): unknown => read(bytes, method.requestDeserialize) },
    ]),
  );
}

function read(bytes: Buffer, decode: (bytes: Buffer) => unknown): unknown {
  let request: unknown;
  try {
    request = decode(bytes);
  } catch (err) {
    return new BadRequest(
      invalid('request', `is not a message of this call: ${err instanceof Error ? err.message : err}`),
    );
  }
  // Most requests are plain ASCII, and that is quickly seen.
  const field = isAscii(bytes) ? undefined : findReplaced(request, '', bytes);
  return field === undefined ? request : new BadRequest(invalid(field, 'is not UTF-8'));
}

/** The path of the first text that is not in `bytes` as it was read: only one that was replaced in part can be. */
function findReplaced(value: unknown, path: string, bytes: Buffer): string | undefined {
  if (typeof value === 'string') return value.includes('\ufffd') && !bytes.includes(value) ? path : undefined;
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return undefined;
  for (const [key, member] of Object.entries(value as Readonly<Record<string, unknown>>)) {
    const name = Array.isArray(value) ? `${path}[${key}]` : `${path === '' ? '' : `${path}.`}${asInProto(key)}`;
    const found = findReplaced(key, name, bytes) ?? findReplaced(member, name, bytes);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** `podSandboxId` as the CRI spells it. */
function asInProto(key: string): string {
  return key.replaceAll(/([a-z])([A-Z])/g, (_pair, small: string, large: string) => `${small}_${large.toLowerCase()}`);
}
