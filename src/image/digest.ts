import { createHash, type Hash } from 'node:crypto';

import { BerthError } from '../base/errors.ts';

declare const brand: unique symbol;

/** A content digest, `sha256:<64 hex>` or `sha512:<128 hex>`: OCI image spec, "Digests". `isDigest` tells them. */
export type Digest = string & { readonly [brand]: 'Digest' };

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** True for a digest of a kind that Berth can verify. */
export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** A running hash of the algorithm that a digest begins with. */
export function hashFor(digest: string): Hash {
  return createHash(digest.startsWith('sha512:') ? 'sha512' : 'sha256');
}

/** The sha256 digest of some bytes. Meant for small documents: it runs on the event loop. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;
}

/** The digest that a hash made for `expected` has come to. */
export function finishDigest(expected: string, hash: Hash): string {
  return `${expected.slice(0, expected.indexOf(':'))}:${hash.digest('hex')}`;
}

/** Throws `unavailable` naming `what` unless the bytes have this digest: whoever sent them is broken or lying. */
export function verifyDigest(bytes: Uint8Array, expected: Digest, what: string): void {
  const actual = finishDigest(expected, hashFor(expected).update(bytes));
  if (actual !== expected)
    throw new BerthError('unavailable', `${what}: content has digest ${actual}, not ${expected}`);
}
