/** Where signatures of an image are looked for. What is found is not verified yet. */

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import * as v from 'valibot';

import { BerthError, isKind, wrap } from '../base/errors.ts';
import { type Digest, isDigest } from './digest.ts';
import { isMissing } from './last-good.ts';
import { hasManyValues } from './many-values.ts';
import { OCI_EMPTY } from './media-types.ts';
import type { PullSource } from './pull-source.ts';
import type { ImageReference } from './reference.ts';
import type { LookasideFolder } from './registries-d.ts';
import type { Access, RegistryClient } from './registry-client.ts';

/** A signature as it was found; kept with the image, so that it can be judged again without the network. */
export type FoundSignature =
  | { readonly kind: 'gpg' /** An OpenPGP message, in base64. */; readonly message: string }
  | {
      readonly kind: 'cosign';
      /** In base64, as the signature. */
      readonly payload: string;
      readonly signature: string;
      /** JSON; empty for none. */
      readonly bundle: string;
    }
  | { readonly kind: 'bundle' /** JSON of sigstore's bundle, as cosign 3 writes it. */; readonly json: string };

/** What the places are asked through. */
export interface SignatureDeps {
  readonly client: RegistryClient;
  readonly lookasides: LookasideFolder;
}

/** Whose signatures are wanted, and where the image comes from. */
export interface SignedImage {
  readonly reference: ImageReference;
  /** The manifest, and the index that led to it. */
  readonly manifests: readonly string[];
  readonly source: PullSource;
}

// A registry may not make us work without end.
const MAX_SIGNATURES = 32;
const MAX_SIGNATURE_BYTES = 1024 * 1024;
const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';
const COSIGN_ARTIFACT = 'application/vnd.dev.cosign.artifact.sig.v1+json';
const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json';
const MAX_BUNDLE_BYTES = 128 * 1024;
/** What referrers of signatures call themselves, or nothing: some tools leave it out of the list. */
const ARTIFACT_TYPES: ReadonlySet<string> = new Set([COSIGN_ARTIFACT, BUNDLE, '', OCI_EMPTY]);

const signatureManifest = v.object({
  layers: v.array(
    v.object({
      mediaType: v.string(),
      digest: v.string(),
      annotations: v.nullish(v.record(v.string(), v.string()), {}),
    }),
  ),
});
const referrersIndex = v.object({
  manifests: v.nullish(v.array(v.object({ digest: v.string(), artifactType: v.nullish(v.string(), '') })), []),
});
const extensionAnswer = v.object({
  signatures: v.nullish(v.array(v.object({ type: v.string(), content: v.string() })), []),
});

/**
 * OpenPGP signatures: of the lookaside that registries.d names, and of registries that say
 * `X-Registry-Supports-Signatures`.
 */
export async function findGpgSignatures(
  deps: SignatureDeps,
  image: SignedImage,
  signal: AbortSignal,
): Promise<FoundSignature[]> {
  const found: Buffer[] = [];
  const base = await deps.lookasides.find(image.reference);
  for (const digest of image.manifests) {
    const [algorithm, hex] = digest.split(':');
    for (let number = 1; found.length < MAX_SIGNATURES; number += 1) {
      const url = new URL(`${base.href}@${algorithm}=${hex}/signature-${number}`);
      const message = await download(deps.client, url, signal);
      if (!message) break;
      found.push(message);
    }
    found.push(...(await fromExtension(deps.client, image.source, digest, signal)));
  }
  return found.slice(0, MAX_SIGNATURES).map((message) => ({ kind: 'gpg', message: message.toString('base64') }));
}

async function download(client: RegistryClient, url: URL, signal: AbortSignal): Promise<Buffer | undefined> {
  if (url.protocol !== 'file:') return await client.download(url, MAX_SIGNATURE_BYTES, signal);
  try {
    return await readFile(fileURLToPath(url));
  } catch (err) {
    if (isMissing(err)) return undefined;
    throw wrap(`read signature ${url.pathname}`, err);
  }
}

async function fromExtension(
  client: RegistryClient,
  source: PullSource,
  digest: string,
  signal: AbortSignal,
): Promise<Buffer[]> {
  const bytes = await source.first(signal, (access) => client.signatureDocument(access, digest, signal));
  const answer = bytes && v.safeParse(extensionAnswer, parseJson(bytes), { abortEarly: true });
  if (!answer?.success) return [];
  return answer.output.signatures
    .filter(({ type, content }) => type === 'atomic' && content.length < MAX_SIGNATURE_BYTES)
    .map(({ content }) => Buffer.from(content, 'base64'));
}

/**
 * Signatures of cosign: under its tag `sha256-<hex>.sig`, and among the referrers of the OCI distribution spec, where its
 * third version puts bundles.
 */
export async function findCosignSignatures(
  { client }: SignatureDeps,
  { manifests, source }: SignedImage,
  signal: AbortSignal,
): Promise<FoundSignature[]> {
  const found: FoundSignature[] = [];
  for (const digest of manifests) {
    const tag = `${digest.replace(':', '-')}.sig`;
    const tagged = await orMissing(
      source.first(signal, async (access) => (await client.manifest(access, tag, signal)).bytes),
    );
    const referred = await referrers(client, source, digest, signal);
    for (const bytes of tagged ? [tagged, ...referred] : referred) {
      for (const one of await signaturesIn(client, source, bytes, signal)) {
        if (found.length < MAX_SIGNATURES) found.push(one);
      }
    }
  }
  return found;
}

async function referrers(
  client: RegistryClient,
  source: PullSource,
  digest: string,
  signal: AbortSignal,
): Promise<Buffer[]> {
  const listed = new Set<Digest>();
  for (const index of await referrersOf(client, source, digest, signal)) {
    const parsed = v.safeParse(referrersIndex, parseJson(index), { abortEarly: true });
    for (const { digest: referrer, artifactType } of parsed.success ? parsed.output.manifests : []) {
      if (ARTIFACT_TYPES.has(artifactType) && isDigest(referrer) && listed.size < MAX_SIGNATURES) listed.add(referrer);
    }
  }
  const manifests: Buffer[] = [];
  for (const referrer of listed) {
    const fetch = async (access: Access): Promise<Buffer> => (await client.manifest(access, referrer, signal)).bytes;
    const bytes = await orMissing(source.first(signal, fetch));
    if (bytes) manifests.push(bytes);
  }
  return manifests;
}

/**
 * The lists of what refers to a manifest. A registry that does not know the question keeps one under a tag: OCI
 * distribution spec, "Referrers Tag Schema".
 */
async function referrersOf(
  client: RegistryClient,
  source: PullSource,
  digest: string,
  signal: AbortSignal,
): Promise<Buffer[]> {
  const ask = async (artifactType: string): Promise<Buffer | undefined> =>
    await orMissing(source.first(signal, (access) => client.referrers(access, digest, artifactType, signal)));
  const signatures = await ask(COSIGN_ARTIFACT);
  const lists = signatures
    ? [signatures, await ask(BUNDLE)]
    : [
        await orMissing(
          source.first(
            signal,
            async (access) => (await client.manifest(access, digest.replace(':', '-'), signal)).bytes,
          ),
        ),
      ];
  return lists.filter((list) => list !== undefined);
}

async function signaturesIn(
  client: RegistryClient,
  source: PullSource,
  manifest: Buffer,
  signal: AbortSignal,
): Promise<FoundSignature[]> {
  const parsed = v.safeParse(signatureManifest, parseJson(manifest), { abortEarly: true });
  if (!parsed.success) return [];
  const found: FoundSignature[] = [];
  for (const { mediaType, digest, annotations } of parsed.output.layers.slice(0, MAX_SIGNATURES)) {
    if (mediaType === BUNDLE && isDigest(digest)) {
      const json = await orMissing(
        source.first(signal, (access) => client.smallBlob(access, digest, MAX_BUNDLE_BYTES, signal)),
      );
      if (json) found.push({ kind: 'bundle', json: json.toString('utf8') });
      continue;
    }
    const signature = annotations['dev.cosignproject.cosign/signature'];
    if (mediaType !== SIMPLE_SIGNING || signature === undefined || !isDigest(digest)) continue;
    const payload = await orMissing(
      source.first(signal, (access) => client.smallBlob(access, digest, MAX_SIGNATURE_BYTES, signal)),
    );
    const bundle = annotations['dev.sigstore.cosign/bundle'] ?? '';
    if (payload) found.push({ kind: 'cosign', payload: payload.toString('base64'), signature, bundle });
  }
  return found;
}

/** Undefined for what is not there; a registry that does not know the question has no signatures either. */
async function orMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (err) {
    if (isKind(err, 'notFound')) return undefined;
    throw err instanceof BerthError ? err : wrap('look for signatures', err);
  }
}

function parseJson(bytes: Buffer): unknown {
  if (hasManyValues(bytes)) return undefined;
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}
