/** Signatures by a plain public key as cosign makes them, and their entry in a transparency log (Rekor). */

import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';

import * as v from 'valibot';

import { BerthError, because } from '../base/errors.ts';

/** One signature with what it signs. */
export interface CosignSignature {
  readonly payload: Uint8Array;
  /** In base64. */
  readonly signature: string;
  /** The log's promise, JSON of cosign's annotation `dev.sigstore.cosign/bundle`; empty for none. */
  readonly bundle: string;
}

const bundleSchema = v.object({
  SignedEntryTimestamp: v.string(),
  Payload: v.object({
    body: v.string(),
    integratedTime: v.pipe(v.number(), v.safeInteger()),
    logIndex: v.pipe(v.number(), v.safeInteger()),
    logID: v.string(),
  }),
});
const entrySchema = v.object({
  apiVersion: v.literal('0.0.1'),
  kind: v.literal('hashedrekord'),
  spec: v.object({
    data: v.object({ hash: v.object({ algorithm: v.literal('sha256'), value: v.string() }) }),
    signature: v.object({ content: v.string(), publicKey: v.object({ content: v.string() }) }),
  }),
});

/** Parses public keys in PEM. Throws `precondition` naming `source` for one that is none. */
export function parsePublicKey(pem: Uint8Array, source: string): KeyObject {
  try {
    return createPublicKey(Buffer.from(pem));
  } catch (err) {
    throw because('precondition', `${source} is no public key in PEM`, err);
  }
}

/** Throws `permission` unless one of the keys made the signature, and, if there are any, one of the logs has noted it. */
export function verifyCosign(one: CosignSignature, keys: readonly KeyObject[], logKeys: readonly KeyObject[]): void {
  const signature = Buffer.from(one.signature, 'base64');
  const signer = keys.find((key) => isSignedBy(one.payload, signature, key));
  if (!signer) throw refused('none of the keys of the policy made it');
  if (logKeys.length > 0) checkLog(one, signature, signer, logKeys);
}

function isSignedBy(data: Uint8Array, signature: Uint8Array, key: KeyObject): boolean {
  try {
    return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', data, key, signature);
  } catch {
    // OpenSSL throws for some signatures that are none.
    return false;
  }
}

/** The log signs its entry, whose body repeats hash, signature and key. */
function checkLog(one: CosignSignature, signature: Buffer, signer: KeyObject, logKeys: readonly KeyObject[]): void {
  const bundle = parsed(bundleSchema, one.bundle, 'it has no entry in a transparency log');
  const { body, integratedTime, logID, logIndex } = bundle.Payload;
  // RFC 8785: the keys in this order.
  const promised = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }));
  const promise = Buffer.from(bundle.SignedEntryTimestamp, 'base64');
  if (!logKeys.some((key) => isSignedBy(promised, promise, key))) throw refused('the log did not sign its entry');
  const { spec } = parsed(
    entrySchema,
    Buffer.from(body, 'base64').toString('utf8'),
    "the log's entry is of no kind that is known",
  );
  const hash = createHash('sha256').update(one.payload).digest('hex');
  const logged = parsePublicKey(Buffer.from(spec.signature.publicKey.content, 'base64'), "the log's entry");
  if (
    spec.data.hash.value !== hash ||
    !Buffer.from(spec.signature.content, 'base64').equals(signature) ||
    !logged.equals(signer)
  ) {
    throw refused("the log's entry is about another signature");
  }
}

function parsed<const S extends v.GenericSchema>(schema: S, json: string, problem: string): v.InferOutput<S> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw refused(problem);
  }
  const result = v.safeParse(schema, value);
  if (!result.success) throw refused(problem);
  return result.output;
}

function refused(problem: string): BerthError {
  return new BerthError('permission', problem);
}
