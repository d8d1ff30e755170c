/** One pull: find the image here, or resolve it and bring its missing layers. The facade makes it appear. */

import { BerthError, type ErrorKind, findCause, kindOf, wrap } from '../base/errors.ts';
import { atPlace, type FaultPoints } from '../base/fault-points.ts';
import type { PullFailure, PullStep } from '../base/meter.ts';
import type { Tracing } from '../base/tracing.ts';
import { type CredentialSource, credentialFor, type RegistryAuth } from './auth.ts';
import type { Endpoint } from './endpoints.ts';
import { type FetchDeps, fetchLayers } from './fetch-layers.ts';
import type { ImageRecord } from './image-record.ts';
import type { LayerHolds } from './layer-holds.ts';
import type { Platform } from './platform.ts';
import type { Claim, PresentImages } from './present-images.ts';
import type { PullProgress } from './pull-progress.ts';
import { PullSource } from './pull-source.ts';
import { formatReference } from './reference.ts';
import type { Registries } from './registries.ts';
import type { Access } from './registry-client.ts';
import { isRegistryUnavailable, RegistryError } from './registry-error.ts';
import { findRoot, type ResolvedImage, resolveImage } from './resolve-image.ts';
import { refuseEarly, type Trust, type TrustEvidence, UntrustedImageError } from './trust.ts';

/** Where tests disturb a pull, in order: it brings nothing that it would have to take back. */
export const PULL_PLACES = [
  'PullImage/resolve',
  'PullImage/judge signatures',
  'PullImage/fetch layers',
  'PullImage/commit',
] as const;

/** What a pull needs. */
export interface PullDeps extends FetchDeps {
  /** In tests alone. */
  readonly faults?: FaultPoints | undefined;
  readonly tracing?: Tracing | undefined;
  readonly registries: Registries;
  readonly trust: Trust;
  readonly platform: Platform;
  readonly present: PresentImages;
  readonly holds: LayerHolds;
}

/**
 * Returns the image that is here already. Otherwise resolves `reference` and unpacks the layers that are missing, then
 * calls `commit` while the layers are still held and returns what it returns. Throws errors that name the reference; those that mean that the registry cannot serve
 * now begin with "RegistryUnavailable", those of an image that is not trusted with "SignatureValidationFailed".
 */
export async function pullImage(
  deps: PullDeps,
  request: Claim & {
    readonly auth: RegistryAuth | undefined;
    /** Asked in order for what the request does not bring. */
    readonly credentials: readonly CredentialSource[];
    readonly progress: PullProgress;
  },
  signal: AbortSignal,
  commit: (image: ResolvedImage, evidence: TrustEvidence) => Promise<ImageRecord>,
): Promise<ImageRecord> {
  const { reference } = request;
  const name = formatReference(reference);
  const [resolve, judge, fetch, appear] = PULL_PLACES;
  const at = async <R>(place: string, work: () => Promise<R>): Promise<R> =>
    await atPlace(deps.faults, place, work, signal);
  try {
    refuseEarly(request.rule, reference);
    const endpoints = await deps.registries.endpoints(reference);
    const unasked = await deps.present.unasked(request, signal);
    if (unasked) return unasked;
    const source = new PullSource(await accessesFor(endpoints, request, signal), deps.log);
    const found = await timed(deps, 'resolve', async () => {
      const root = await findRoot({ ...deps, source }, reference, deps.present.digestsOf(request), signal);
      const present = deps.present.led(request, root.digest);
      if (present) return { present };
      deps.layers.prepare();
      return { image: await at(resolve, () => resolveImage({ ...deps, source }, reference, root, signal)) };
    });
    if (found.present) return found.present;
    const { image } = found;
    const evidence = await timed(deps, 'trust', () =>
      at(judge, () => evidenceOf(deps, request, image, source, signal)),
    );
    return await deps.holds.during(image.document.diffIds, signal, async () => {
      request.progress.phase = 'downloading';
      await timed(deps, 'layers', () => at(fetch, () => fetchLayers(deps, source, image, request.progress, signal)));
      request.progress.phase = 'committing';
      request.progress.servedBy = source.servedBy;
      return await timed(deps, 'commit', () => at(appear, () => commit(image, evidence)));
    });
  } catch (err) {
    throw wrap(`${kubeletWord(err)}pull ${name}`, err);
  }
}

/** Times a step of a pull, whether it ends well or not. */
async function timed<T>({ meter, clock, tracing }: PullDeps, step: PullStep, work: () => Promise<T>): Promise<T> {
  const startedMs = clock.monotonicMs();
  try {
    return await (tracing?.isRecording ? tracing.inSpan(`pull: ${step}`, {}, work) : work());
  } finally {
    meter.pullStep(step, (clock.monotonicMs() - startedMs) / 1000);
  }
}

const FAILURES: Readonly<Record<ErrorKind, PullFailure>> = Object.freeze({
  invalid: 'bad-image',
  precondition: 'bad-image',
  notFound: 'not-found',
  alreadyExists: 'internal',
  permission: 'permission',
  exhausted: 'no-space',
  unavailable: 'registry-unavailable',
  deadline: 'deadline',
  cancelled: 'cancelled',
  unimplemented: 'bad-image',
  internal: 'internal',
});

/** Why a pull failed. */
export function pullFailure(err: unknown): PullFailure {
  if (findCause(err, UntrustedImageError)) return 'untrusted';
  if (findCause(err, RegistryError)?.status === 429) return 'rate-limited';
  return isRegistryUnavailable(err) ? 'registry-unavailable' : FAILURES[kindOf(err)];
}

/** Words that the kubelet looks for at the beginning (k8s.io/cri-api/pkg/errors). */
function kubeletWord(err: unknown): string {
  if (findCause(err, UntrustedImageError)) return 'SignatureValidationFailed: ';
  return isRegistryUnavailable(err) ? 'RegistryUnavailable: ' : '';
}

/** Looks for signatures and judges them, before anything large is fetched. */
async function evidenceOf(
  deps: PullDeps,
  { rule, reference }: Claim,
  image: ResolvedImage,
  source: PullSource,
  signal: AbortSignal,
): Promise<TrustEvidence> {
  const manifests = [...new Set([image.manifestDigest, image.digest])];
  const signatures = await deps.trust.find(rule, { reference, manifests, source }, signal);
  await deps.trust.judge(rule, reference, { manifests, signatures }, signal);
  return { manifests, signatures };
}

/** The endpoints with the credentials for each. */
export async function accessesFor(
  endpoints: readonly Endpoint[],
  { auth, credentials }: { readonly auth: RegistryAuth | undefined; readonly credentials: readonly CredentialSource[] },
  signal: AbortSignal,
): Promise<Access[]> {
  const primary = endpoints.find((endpoint) => !endpoint.mirror);
  if (!primary) throw new BerthError('internal', 'no endpoint to pull from');
  return await Promise.all(
    endpoints.map(async (endpoint) => ({
      endpoint,
      credential: await credentialFor(endpoint, { auth, primary }, credentials, signal),
    })),
  );
}
