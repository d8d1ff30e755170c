/**
 * Sigstore bundles, in which cosign 3 keeps its signatures: a DSSE envelope (github.com/secure-systems-lab/dsse,
 * protocol.md) around an in-toto statement about the image (in-toto attestation, spec/v1/statement.md), in the JSON form of
 * sigstore_bundle.proto. Of it Berth verifies signatures by a plain public key, and entries of Rekor's first version.
 */

import { createHash, type KeyObject, verify } from 'node:crypto';

import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import { parsePublicKey } from './cosign-signature.ts';
import { hasManyValues } from './many-values.ts';

/** What a signer has put their key to. */
export interface SignedSubject {
  /** Digests of manifests, `sha256:<hex>`. */
  readonly digests: readonly string[];
  /** What the signer calls the image; empty when they name none, as cosign 3 does. */
  readonly name: string;
}

const PAYLOAD_TYPE = 'application/vnd.in-toto+json';
/** What `cosign sign` states; other statements are attestations, which say something else of an image. */
const SIGN_PREDICATE = 'https://sigstore.dev/cosign/sign/v1';

const wholeNumber = v.pipe(v.union([v.string(), v.number()]), v.transform(Number), v.safeInteger());
const logEntrySchema = v.object({
  logIndex: wholeNumber,
  logId: v.object({ keyId: v.string() }),
  integratedTime: v.nullish(wholeNumber, 0),
  inclusionPromise: v.nullish(v.object({ signedEntryTimestamp: v.string() })),
  canonicalizedBody: v.string(),
});
const bundleSchema = v.object({
  mediaType: v.pipe(v.string(), v.startsWith('application/vnd.dev.sigstore.bundle')),
  verificationMaterial: v.object({ tlogEntries: v.nullish(v.array(logEntrySchema), []) }),
  dsseEnvelope: v.object({
    payload: v.string(),
    payloadType: v.literal(PAYLOAD_TYPE),
    signatures: v.pipe(v.array(v.object({ sig: v.string() })), v.length(1)),
  }),
});
const statementSchema = v.object({
  _type: v.picklist(['https://in-toto.io/Statement/v1', 'https://in-toto.io/Statement/v0.1']),
  subject: v.array(v.object({ name: v.nullish(v.string(), ''), digest: v.record(v.string(), v.string()) })),
  predicateType: v.string(),
});
const loggedSchema = v.object({
  apiVersion: v.literal('0.0.1'),
  kind: v.literal('dsse'),
  spec: v.object({
    payloadHash: v.object({ algorithm: v.literal('sha256'), value: v.string() }),
    signatures: v.array(v.object({ signature: v.string(), verifier: v.string() })),
  }),
});

type LogEntry = v.InferOutput<typeof logEntrySchema>;

/**
 * What a bundle says, when one of the keys made its signature, and, if there are any log keys, one of the logs has noted
 * it. Throws `permission` when not, and for a statement that is no signature of an image.
 */
export function verifyBundle(json: string, keys: readonly KeyObject[], logKeys: readonly KeyObject[]): SignedSubject {
  const { dsseEnvelope, verificationMaterial } = parsed(bundleSchema, json, 'it is no bundle that is known');
  const payload = Buffer.from(dsseEnvelope.payload, 'base64');
  const signature = Buffer.from(dsseEnvelope.signatures[0]?.sig ?? '', 'base64');
  const message = preAuthenticated(payload);
  const signer = keys.find((key) => isSignedBy(message, signature, key));
  if (!signer) throw refused('none of the keys of the policy made it');
  if (logKeys.length > 0) checkLog(verificationMaterial.tlogEntries, { payload, signature, signer }, logKeys);
  return subjectOf(payload);
}

/** DSSE's "pre-authentication encoding": what the signature is over. */
function preAuthenticated(payload: Buffer): Buffer {
  const head = `DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}

function subjectOf(payload: Buffer): SignedSubject {
  const text = payload.toString('utf8');
  const { subject, predicateType } = parsed(statementSchema, text, 'what was signed is no statement of in-toto');
  if (predicateType !== SIGN_PREDICATE) {
    throw refused(`it is an attestation (${predicateType.slice(0, 200)}), not a signature of an image`);
  }
  const [only] = subject;
  // With several, the names and digests could be put together anew.
  if (!only || subject.length > 1) throw refused(`its statement is about ${subject.length} things, not one image`);
  return { digests: Object.entries(only.digest).map(([algorithm, hex]) => `${algorithm}:${hex}`), name: only.name };
}

/** ECDSA's hash goes by the curve; older tools took SHA-256 for all of them. */
function hashesFor(key: KeyObject): readonly (string | null)[] {
  if (key.asymmetricKeyType === 'ed25519') return [null];
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (curve === 'secp384r1') return ['sha384', 'sha256'];
  return curve === 'secp521r1' ? ['sha512', 'sha256'] : ['sha256'];
}

function isSignedBy(data: Uint8Array, signature: Uint8Array, key: KeyObject): boolean {
  return hashesFor(key).some((hash) => {
    try {
      return verify(hash, data, key, signature);
    } catch {
      // OpenSSL throws for some signatures that are none.
      return false;
    }
  });
}

interface Signed {
  readonly payload: Buffer;
  readonly signature: Buffer;
  readonly signer: KeyObject;
}

/** The log signs its entry, whose body repeats hash, signature and key; one good entry is enough. */
function checkLog(entries: readonly LogEntry[], signed: Signed, logKeys: readonly KeyObject[]): void {
  if (entries.length === 0) throw refused('it has no entry in a transparency log');
  const problems = entries.map((entry) => problemWith(entry, signed, logKeys));
  if (!problems.includes(undefined)) throw refused(problems[0] ?? '');
}

function problemWith(entry: LogEntry, signed: Signed, logKeys: readonly KeyObject[]): string | undefined {
  const { inclusionPromise, canonicalizedBody: body, integratedTime, logIndex, logId } = entry;
  if (!inclusionPromise) return "the log's entry has no signed timestamp, as those of Rekor's second version";
  const logID = Buffer.from(logId.keyId, 'base64').toString('hex');
  // RFC 8785: the keys in this order.
  const promised = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }));
  const promise = Buffer.from(inclusionPromise.signedEntryTimestamp, 'base64');
  if (!logKeys.some((key) => isSignedBy(promised, promise, key))) return 'the log did not sign its entry';
  const result = v.safeParse(loggedSchema, parseJson(Buffer.from(body, 'base64').toString('utf8')), {
    abortEarly: true,
  });
  if (!result.success) return "the log's entry is of no kind that is known";
  const { payloadHash, signatures } = result.output.spec;
  const hash = createHash('sha256').update(signed.payload).digest('hex');
  const isOurs = payloadHash.value === hash && signatures.some((one) => isSame(one, signed));
  return isOurs ? undefined : "the log's entry is about another signature";
}

function isSame(logged: { readonly signature: string; readonly verifier: string }, signed: Signed): boolean {
  const key = parsePublicKey(Buffer.from(logged.verifier, 'base64'), "the log's entry");
  return Buffer.from(logged.signature, 'base64').equals(signed.signature) && key.equals(signed.signer);
}

function parsed<const S extends v.GenericSchema>(schema: S, json: string, problem: string): v.InferOutput<S> {
  const result = v.safeParse(schema, parseJson(json), { abortEarly: true });
  if (!result.success) throw refused(problem);
  return result.output;
}

function parseJson(text: string): unknown {
  if (hasManyValues(Buffer.from(text))) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refused(problem: string): BerthError {
  return new BerthError('permission', problem);
}
