import { resolve } from 'node:path';

import { AdminService } from '../../../proto/gen/berth/admin.ts';
import {
  type Image,
  ImageServiceService,
  ImageStatusRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import { json, shortId } from '../output.ts';
import { print, type Session } from '../session.ts';

/** A pull ends when it makes no progress; the client waits as long as that takes. */
const PULL_TIMEOUT_MS = 3_600_000;

/** What `berth image load` was asked for. */
export interface LoadOptions {
  /** In place of the names in the file. */
  readonly name?: string;
}

/** `berth image load FILE`: an OCI layout (folder or tar) or a `docker save` archive. Shows the names in the file. */
export async function loadImage(session: Session, file: string, { name = '' }: LoadOptions): Promise<void> {
  const request = { path: resolve(file), name };
  const { images } = await session.connection.call(AdminService.loadImage, request, PULL_TIMEOUT_MS);
  printNames(
    session,
    images,
    images.map(({ id, tags }) => ({ id, names: tags })),
  );
  if (images.some(({ tags }) => tags.length === 0) && !session.json) {
    session.output.err('what has no name in the file is used by its id; --name gives it one\n');
  }
}

function printNames(
  session: Session,
  value: unknown,
  images: readonly { readonly id: string; readonly names: readonly string[] }[],
): void {
  const rows = images.flatMap(({ id, names }) => (names.length > 0 ? names : ['-']).map((name) => [shortId(id), name]));
  print(session, value, ['IMAGE', 'NAME'], rows);
}

/** `berth image pull REFERENCE`, with `user:password` for a registry that wants to know. */
export async function pullImage(session: Session, reference: string, credentials: string | undefined): Promise<void> {
  const [username = '', ...password] = (credentials ?? '').split(':');
  const auth = credentials === undefined ? undefined : { username, password: password.join(':') };
  const request = PullImageRequest.create({ image: { image: reference }, auth });
  const { imageRef } = await session.connection.call(ImageServiceService.pullImage, request, PULL_TIMEOUT_MS);
  session.output.out(session.json ? json({ id: imageRef }) : `${imageRef}\n`);
}

/**
 * `berth image rm REFERENCE...`: each goes with all its names, as the CRI wants it, and all of them are shown. Throws
 * for one that is not here; those before it are removed by then.
 */
export async function removeImages(session: Session, references: readonly string[]): Promise<void> {
  const removed: { id: string; names: string[] }[] = [];
  try {
    for (const reference of references) {
      const image = await findImage(session, reference);
      // By its id: a name may mean another image by now.
      const request = RemoveImageRequest.create({ image: { image: image.id } });
      await session.connection.call(ImageServiceService.removeImage, request);
      removed.push({ id: image.id, names: [...image.repoTags, ...image.repoDigests] });
    }
  } finally {
    if (removed.length > 0 || session.json) printNames(session, removed, removed);
  }
}

async function findImage({ connection }: Session, reference: string): Promise<Image> {
  const request = ImageStatusRequest.create({ image: { image: reference } });
  const { image } = await connection.call(ImageServiceService.imageStatus, request);
  if (!image) throw new CliError(`image ${reference} is not here`, 'berth images shows what is there');
  return image;
}
