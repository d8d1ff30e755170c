import { constants } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

import { AdminService } from '../../../proto/gen/berth/admin.ts';
import { CliError } from '../cli-error.ts';
import { age, bytes, json, shortId } from '../output.ts';
import { print, type Session } from '../session.ts';
import { orNotHere } from './image-not-here.ts';

/** Reading all layers of a node takes as long as its disk does. */
const CHECK_TIMEOUT_MS = 3_600_000;
const NANOS_PER_MS = 1_000_000n;

/** `berth image history REFERENCE`: a line for each step of its build, newest first. */
export async function showHistory(session: Session, reference: string): Promise<void> {
  const { entries } = await orNotHere(session.connection.call(AdminService.imageHistory, { image: reference }));
  const rows = entries.map(({ created, createdBy, diffId, sizeBytes }) => [
    diffId === '' ? '-' : shortId(diffId),
    diffId === '' ? '-' : bytes(Number(sizeBytes)),
    ageOf(created),
    createdBy === '' ? '-' : createdBy,
  ]);
  print(session, entries, ['LAYER', 'SIZE', 'AGE', 'MADE BY'], rows);
}

function ageOf(time: string): string {
  const ms = Date.parse(time);
  return Number.isNaN(ms) ? '-' : age(BigInt(ms) * NANOS_PER_MS);
}

/** What `berth image save` was asked for. */
export interface SaveOptions {
  /** Where to; standard output when it is not given. */
  readonly output?: string;
}

/**
 * `berth image save REFERENCE... [-o FILE]`: an OCI layout and a `docker save` archive in one, which `berth image load` and skopeo take. A file
 * appears when it is whole. Throws CliError, for a terminal too.
 */
export async function saveImages(session: Session, images: readonly string[], { output }: SaveOptions): Promise<void> {
  if (output === undefined) return await saveToOutput(session, images);
  const path = resolve(output);
  const partial = `${path}.partial-${process.pid}`;
  const file = await openNew(partial, path);
  let length = 0;
  try {
    await read(session, images, async (data) => {
      length += data.length;
      await file.write(data);
    });
    await file.close();
    await rename(partial, path);
  } catch (err) {
    await file.close().catch(() => {});
    await rm(partial, { force: true });
    throw err instanceof CliError ? err : fileError(path, err);
  }
  session.output.out(session.json ? json({ file: path, bytes: length }) : `${path}  ${bytes(length)}\n`);
}

async function saveToOutput(session: Session, images: readonly string[]): Promise<void> {
  if (session.output.isTerminal === true) {
    throw new CliError('an archive is nothing for a terminal', 'name a file: -o FILE, or send it on: > FILE');
  }
  await read(session, images, (data) => session.output.outBytes(data));
}

async function read(
  session: Session,
  images: readonly string[],
  write: (data: Uint8Array) => Promise<void>,
): Promise<void> {
  using interrupt = session.watchInterrupts();
  const request = { images: [...images] };
  await orNotHere(session.connection.readAll(AdminService.saveImages, request, ({ data }) => write(data), interrupt));
}

async function openNew(partial: string, path: string): Promise<FileHandle> {
  try {
    return await open(partial, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o644);
  } catch (err) {
    throw fileError(path, err);
  }
}

function fileError(path: string, err: unknown): CliError {
  const isGone = err instanceof Error && 'code' in err && err.code === 'ENOENT';
  if (isGone) return new CliError(`folder ${dirname(path)} does not exist`);
  return new CliError(`${path} could not be written: ${err instanceof Error ? err.message : String(err)}`);
}

/** `berth image check [REFERENCE...]`: exit code 1 when something is damaged. */
export async function checkImages(session: Session, references: readonly string[]): Promise<number> {
  const request = { images: [...references] };
  const { images } = await orNotHere(session.connection.call(AdminService.checkImages, request, CHECK_TIMEOUT_MS));
  const rows = images.flatMap(({ id, names, problems, uncheckedLayers }) => {
    const name = names[0] ?? shortId(id);
    const untold = uncheckedLayers > 0 ? ` (${uncheckedLayers} layers have nothing to be compared with)` : '';
    if (problems.length === 0) return [[name, `whole${untold}`]];
    return problems.map((problem) => [name, problem]);
  });
  print(session, images, ['IMAGE', 'STATE'], rows);
  const damaged = images.filter(({ problems }) => problems.length > 0);
  if (damaged.length > 0 && !session.json) {
    session.output.err('damaged images are not used any more; pulling them again mends them\n');
  }
  return damaged.length > 0 ? 1 : 0;
}

/** `berth image mount [REFERENCE [FOLDER]]`: where it is mounted, or what is. */
export async function mountImage(session: Session, image: string | undefined, folder = ''): Promise<void> {
  if (image === undefined) return await showMounts(session);
  const request = { image, folder: folder === '' ? '' : resolve(folder) };
  const answer = await orNotHere(session.connection.call(AdminService.mountImage, request));
  session.output.out(session.json ? json(answer) : `${answer.folder}\n`);
}

async function showMounts(session: Session): Promise<void> {
  const { mounts } = await session.connection.call(AdminService.listImageMounts, {});
  const rows = mounts.map(({ image, folder, mountedAtUs }) => [image, folder, age(mountedAtUs * 1000n)]);
  print(session, mounts, ['IMAGE', 'FOLDER', 'AGE'], rows);
}

/** `berth image unmount REFERENCE|FOLDER`. */
export async function unmountImage(session: Session, target: string): Promise<void> {
  const isPath = /^\.{0,2}\//.test(target) || target === '.' || target === '..';
  const request = { target: isPath ? resolve(target) : target };
  const answer = await session.connection.call(AdminService.unmountImage, request);
  session.output.out(session.json ? json(answer) : answer.folders.map((folder) => `${folder}\n`).join(''));
}
