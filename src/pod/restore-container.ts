import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';

import { BerthError, invalid, wrap } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { ImageRecord } from '../image/image-record.ts';
import type { RestoredDiff } from '../image/snapshots.ts';
import { checkCriu } from '../runtime/criu.ts';
import { OpenArchive, workFolder } from './checkpoint-archive.ts';
import type { PodDeps } from './pod-deps.ts';
import type { SandboxRecord } from './records.ts';

/** What a container is restored from: lies in `folder` until it has started or is removed. */
export interface RestoreSource {
  readonly folder: string;
  /** The image that the checkpointed container had. */
  readonly image: ImageRecord;
}

/** Two blocks of zeros: an archive with nothing in it (tar(5)). */
const EMPTY_TAR = Buffer.alloc(1024);

/** True when a client names an archive of a container in place of an image, as CRI-O and containerd have it. */
export function isArchive(imageReference: string): boolean {
  return imageReference.startsWith('/');
}

/**
 * Takes an archive apart for a container that shall go on from it. Throws `invalid` for what is no archive of a
 * container, `precondition` when this host cannot restore, `notFound` when the image of the container is not here;
 * nothing is left then.
 */
export async function openRestoreSource(
  deps: PodDeps,
  id: ContainerId,
  sandbox: SandboxRecord,
  archive: string,
  signal: AbortSignal,
): Promise<RestoreSource> {
  checkCriu(sandbox.handler, deps.handlers);
  if (sandbox.spec.security.namespaces.user)
    throw new BerthError(
      'precondition',
      `sandbox ${sandbox.id} has a user namespace, in which nothing can be restored`,
    );
  if (!existsSync(archive)) throw invalid('config.image.image', `${archive} is not there`);
  const folder = workFolder(deps, id);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const opened = new OpenArchive(archive, await deps.extractArchive(archive, join(folder, 'members'), signal));
    const config = opened.config();
    const image = findImage(deps, [config.rootfsImage, config.rootfsImageRef, config.rootfsImageName]);
    if (!image) {
      const wanted = config.rootfsImageName || config.rootfsImage;
      throw invalid(
        'config.image.image',
        `${archive} is of a container of ${wanted}, which is not here; pull it first`,
      );
    }
    const images = join(folder, 'images');
    mkdirSync(images, { mode: 0o700 });
    for (const [base, path] of opened.images()) renameSync(path, join(images, base));
    const diff = opened.diff();
    if (diff === undefined) writeFileSync(join(folder, 'diff.tar'), EMPTY_TAR);
    else renameSync(diff, join(folder, 'diff.tar'));
    writeFileSync(join(folder, 'hidden.json'), JSON.stringify(opened.hidden()));
    await rm(join(folder, 'members'), { recursive: true });
    return { folder, image };
  } catch (err) {
    await removeRestoreSource(folder);
    throw wrap(`restore from ${archive}`, err);
  }
}

/** Removes what openRestoreSource() has made. Safe to repeat. */
export async function removeRestoreSource(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
}

/** The folder of CRIU's images. */
export function imagesOf(folder: string): string {
  return join(folder, 'images');
}

/** What the container had written. */
export function diffOf(folder: string): RestoredDiff {
  const hidden = JSON.parse(readFileSync(join(folder, 'hidden.json'), 'utf8')) as string[];
  return { file: join(folder, 'diff.tar'), hidden };
}

function findImage(deps: PodDeps, names: readonly string[]): ImageRecord | undefined {
  for (const name of names) {
    const image = name === '' ? undefined : deps.images.find(name);
    if (image) return image;
  }
  return undefined;
}
