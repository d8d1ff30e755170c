import { resolve } from 'node:path';

import { AdminService } from '../../../proto/gen/berth/admin.ts';
import {
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

/** `berth image load FILE`: an OCI layout (folder or tar) or a `docker save` archive. */
export async function loadImage(session: Session, file: string): Promise<void> {
  const { images } = await session.connection.call(AdminService.loadImage, { path: resolve(file) }, PULL_TIMEOUT_MS);
  print(
    session,
    images,
    ['IMAGE', 'NAME'],
    images.flatMap(({ id, tags }) => (tags.length > 0 ? tags : ['-']).map((tag) => [shortId(id), tag])),
  );
}

/** `berth image pull REFERENCE`, with `user:password` for a registry that wants to know. */
export async function pullImage(session: Session, reference: string, credentials: string | undefined): Promise<void> {
  const [username = '', ...password] = (credentials ?? '').split(':');
  const auth = credentials === undefined ? undefined : { username, password: password.join(':') };
  const request = PullImageRequest.create({ image: { image: reference }, auth });
  const { imageRef } = await session.connection.call(ImageServiceService.pullImage, request, PULL_TIMEOUT_MS);
  session.output.out(session.json ? json({ id: imageRef }) : `${imageRef}\n`);
}

/** `berth image rm REFERENCE...`: each with all its names. Throws for one that is not here. */
export async function removeImages(session: Session, references: readonly string[]): Promise<void> {
  for (const reference of references) {
    const image = { image: reference };
    const found = await session.connection.call(ImageServiceService.imageStatus, ImageStatusRequest.create({ image }));
    if (!found.image) throw new CliError(`image ${reference} is not here`, 'berth images shows what is there');
    await session.connection.call(ImageServiceService.removeImage, RemoveImageRequest.create({ image }));
    session.output.out(session.json ? json({ removed: found.image.id }) : `${found.image.id}\n`);
  }
}
