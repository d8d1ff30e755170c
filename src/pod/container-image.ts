import { BerthError, invalid } from '../base/errors.ts';
import type { ImageRecord } from '../image/image-record.ts';
import type { ContainerSpec } from '../runtime/container-spec.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { parseSignal } from './stop-signal.ts';

/**
 * The image that a client wants a container of. Throws `notFound` when it was never pulled, `invalid` for an artifact.
 */
export function requestedImage(deps: PodDeps, spec: ContainerSpec): ImageRecord {
  const field = 'config.image.image';
  const { reference } = spec.image;
  const image = pulledImage(deps, reference, field);
  if (image.artifactType === undefined) return image;
  throw invalid(
    field,
    `${reference} is an artifact (${image.artifactType}), not a container image: it has no root filesystem, and can only be a volume`,
  );
}

/** The image that a client names in a field. Throws `notFound` when it was never pulled, `invalid` for no image's name. */
export function pulledImage(deps: PodDeps, reference: string, field: string): ImageRecord {
  const image = deps.images.find(reference, field);
  if (image) return image;
  throw new BerthError('notFound', `${field}: image ${reference} is not here; pull it first`);
}

/** The image that a container was made from. Throws `notFound` when somebody removed it meanwhile. */
export function imageOf(deps: PodDeps, imageId: string): ImageRecord {
  const image = deps.images.find(imageId);
  if (!image) throw new BerthError('notFound', `image ${imageId} is not here any more`);
  return image;
}

/**
 * Throws unless the policy of the pod's namespace allows the container's image, and those that it wants as volumes. It
 * is asked anew, because it may have changed since they were pulled, or for another namespace.
 */
export async function checkTrust(
  deps: PodDeps,
  sandbox: SandboxRecord,
  { spec, imageId, imageVolumes = [] }: ContainerRecord,
  signal: AbortSignal,
): Promise<void> {
  const { namespace } = sandbox.spec;
  const check = async (id: string, { userSpecified, reference }: ContainerSpec['image']): Promise<void> =>
    await deps.images.checkTrust(imageOf(deps, id), userSpecified || reference, namespace, signal);
  await check(imageId, spec.image);
  for (const { index, imageId: volume } of imageVolumes) {
    const image = spec.mounts[index]?.image;
    if (image) await check(volume, image);
  }
}

/** What people call the image: the kubelet asks by id, and they want to read the name that they wrote. */
export function chooseImageName(spec: ContainerSpec, image: ImageRecord): string {
  const { userSpecified, reference } = spec.image;
  if (userSpecified !== '') return userSpecified;
  return image.id.includes(reference) ? (image.tags[0] ?? reference) : reference;
}

/** The signal that asks a container to end: the client's, the image's, or SIGTERM. Throws `invalid`. */
export function chooseStopSignal(spec: ContainerSpec, image: ImageRecord): string {
  if (spec.stopSignal === undefined) return parseSignal(image.config.stopSignal) ?? 'SIGTERM';
  const wanted = parseSignal(spec.stopSignal);
  if (wanted === undefined) throw invalid('config.stop_signal', `${spec.stopSignal} is not a signal`);
  return wanted;
}
