import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { invalid, wrap } from '../base/errors.ts';
import type { SnapshotOptions } from '../image/snapshots.ts';
import type { ContainerSpec, MountSpec } from '../runtime/container-spec.ts';
import { resolveImagePath } from '../runtime/image-path.ts';
import { imageOf, pulledImage } from './container-image.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, ImageVolume } from './records.ts';

/** The kubelet looks for this word (cri-api, pkg/errors). */
const MOUNT_FAILED = 'ImageVolumeMountFailed';

/**
 * The images that a container wants to see as volumes, by the position of their mounts. Throws `notFound` for one that
 * was never pulled, `invalid` for a mount that cannot be one.
 */
export function requestedImageVolumes(deps: PodDeps, { mounts }: ContainerSpec): ImageVolume[] {
  return mounts.flatMap((mount, index) => {
    const field = `config.mounts[${index}]`;
    if (!mount.image) {
      if (mount.imageSubPath !== '') throw invalid(`${field}.image_sub_path`, 'is given without an image');
      return [];
    }
    try {
      checkImageMount(field, mount);
      const image = pulledImage(deps, mount.image.reference, `${field}.image.image`);
      if (image.artifactType !== undefined && image.layers.length === 0) {
        throw invalid(`${field}.image.image`, `${mount.image.reference} is an artifact without a file`);
      }
      return [{ index, imageId: image.id, imageRef: image.repoDigests[0] ?? image.id }];
    } catch (err) {
      throw wrap(MOUNT_FAILED, err);
    }
  });
}

/** True when a container was made from an image, or has it as a volume: it must stay. */
export function usesImage({ imageId, imageVolumes = [] }: ContainerRecord, id: string): boolean {
  return imageId === id || imageVolumes.some((volume) => volume.imageId === id);
}

/**
 * Mounts a container's image volumes below `folder`, read-only, and returns where they are, by the position of their
 * mounts. The container gets copies of its own, so that unmountVolumes() may take these away once it is created.
 */
export function mountImageVolumes(
  deps: PodDeps,
  folder: string,
  { spec, imageVolumes = [] }: ContainerRecord,
  options: Pick<SnapshotOptions, 'owner' | 'label'>,
): Map<number, string> {
  const sources = new Map<number, string>();
  for (const { index, imageId } of imageVolumes) {
    const field = `config.mounts[${index}]`;
    const target = join(folder, `image-${index}`);
    try {
      mkdirSync(target, { recursive: true, mode: 0o700 });
      deps.snapshots.mountReadonly(target, imageOf(deps, imageId).layers, options);
      const subPath = spec.mounts[index]?.imageSubPath ?? '';
      sources.set(index, resolveImagePath(target, subPath, `${field}.image_sub_path`));
    } catch (err) {
      throw wrap(MOUNT_FAILED, err);
    }
  }
  return sources;
}

function checkImageMount(field: string, { hostPath, readonly, propagation }: MountSpec): void {
  if (hostPath !== '') throw invalid(`${field}.host_path`, 'must be empty for an image');
  if (!readonly) throw invalid(`${field}.readonly`, 'must be true for an image');
  if (propagation !== 'private') throw invalid(`${field}.propagation`, 'must be private for an image');
}
