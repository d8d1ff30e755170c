import { setTimeout } from 'node:timers/promises';

import { status } from '@grpc/grpc-js';

import { AdminService, type PrunedItem, type PullLayer } from '../../../proto/gen/berth/admin.ts';
import {
  type Image,
  ImageServiceService,
  ImageStatusRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../../proto/gen/cri/api.ts';
import { CliError, reworded } from '../cli-error.ts';
import { age, bytes, json, shortId, timeLeft } from '../output.ts';
import { PullDisplay } from '../pull-display.ts';
import { print, type Session } from '../session.ts';
import { openArchiveInput } from './archive-input.ts';
import { notHere, orNotHere } from './image-not-here.ts';

/** A pull ends when it makes no progress; the client waits as long as that takes. */
const PULL_TIMEOUT_MS = 3_600_000;
/** How often a display of a pull is brought up to date. */
const WATCH_MS = 200;

/** What `berth image load` was asked for. */
export interface LoadOptions {
  /** In place of the names in the file. */
  readonly name?: string;
}

/**
 * `berth image load FILE`: an OCI layout (folder or tar) or a `docker save` archive; `-` for a tar on standard input. Shows
 * the names in the file.
 */
export async function loadImage(session: Session, file: string, { name = '' }: LoadOptions): Promise<void> {
  await using input = await openArchiveInput(file);
  const request = { path: input.path, name };
  const { images } = await input.named(session.connection.call(AdminService.loadImage, request, PULL_TIMEOUT_MS));
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
  if (credentials !== undefined && !credentials.includes(':')) {
    throw new CliError('--creds has no colon', 'it is USER:PASSWORD; the password may be empty');
  }
  const [username = '', ...password] = (credentials ?? '').split(':');
  const auth = credentials === undefined ? undefined : { username, password: password.join(':') };
  const request = PullImageRequest.create({ image: { image: reference }, auth });
  const pulled = whileItRuns(session.connection.call(ImageServiceService.pullImage, request, PULL_TIMEOUT_MS));
  const { imageRef } = await (session.json ? pulled : showingProgress(session, reference, pulled));
  session.output.out(session.json ? json({ id: imageRef }) : `${imageRef}\n`);
}

/** A pull, whose error tells what becomes of it when berthd is stopped, and names no field of the request. */
async function whileItRuns<T>(pulled: Promise<T>): Promise<T> {
  try {
    return await pulled;
  } catch (err) {
    if (!(err instanceof CliError)) throw err;
    if (err.code === status.INVALID_ARGUMENT) return await orNotHere(Promise.reject(err));
    if (err.code !== status.CANCELLED) throw err;
    throw reworded(err, err.message, 'the pull, repeated when berthd runs again, goes on where it was');
  }
}

/** Shows how a pull comes on until it has ended. */
async function showingProgress<T>(session: Session, image: string, pulled: Promise<T>): Promise<T> {
  const display = new PullDisplay(session.output);
  const over = new AbortController();
  const ended = pulled.finally(() => over.abort());
  const watch = async (): Promise<void> => {
    while (!over.signal.aborted) {
      const { pulls } = await session.connection.call(AdminService.listPulls, { image });
      const [pull] = pulls;
      if (pull && !over.signal.aborted) display.show(pull);
      await setTimeout(WATCH_MS, undefined, { signal: over.signal });
    }
  };
  // A display that fails is no reason for the pull to fail.
  const [result] = await Promise.all([ended, watch().catch(() => undefined)]);
  display.end();
  return result;
}

/** `berth pulls`: pulls that run, also the kubelet's: a line for each, and one for each of its layers that was not here. */
export async function showPulls(session: Session): Promise<void> {
  const { pulls } = await session.connection.call(AdminService.listPulls, { image: '' });
  const rows = pulls.flatMap((pull) => {
    const rate = `${bytes(Math.round(pull.bytesPerSecond))}/s`;
    const common = [rate, timeLeft(pull.secondsLeft), age(pull.startedAtUs * 1000n)];
    const share = (layers: readonly PullLayer[]): string => {
      const sum = (field: 'bytesDone' | 'bytesTotal'): number =>
        layers.reduce((total, layer) => total + Number(layer[field]), 0);
      return layers.length === 0 ? '-' : `${bytes(sum('bytesDone'))} of ${bytes(sum('bytesTotal'))}`;
    };
    const done = pull.layers.filter(({ phase }) => phase === 'done').length;
    const count = pull.layers.length === 0 ? '-' : `${done} of ${pull.layers.length}`;
    const rows = pull.layers.map((layer) => ['', shortId(layer.digest), layer.phase, share([layer]), '', '', '']);
    return [[pull.image, count, pull.phase, share(pull.layers), ...common], ...rows];
  });
  print(session, pulls, ['IMAGE', 'LAYER', 'PHASE', 'BYTES', 'RATE', 'LEFT', 'AGE'], rows);
}

/** `berth image inspect REFERENCE`: all that is known of an image, as JSON. Throws for one that is not here. */
export async function inspectImage(session: Session, reference: string): Promise<void> {
  const request = ImageStatusRequest.create({ image: { image: reference }, verbose: true });
  const { image, info } = await orNotHere(session.connection.call(ImageServiceService.imageStatus, request));
  if (!image) throw notHere(reference);
  const more = Object.fromEntries(Object.entries(info).map(([key, text]) => [key, parsed(text)]));
  session.output.out(json({ ...image, info: more }));
}

/** The values of `info` are JSON, each by itself. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What `berth image prune` was asked for. */
export interface PruneOptions {
  readonly dryRun: boolean;
  readonly all: boolean;
}

/** `berth image prune`: exit code 1 when something could not be removed. */
export async function pruneImages(session: Session, { dryRun, all }: PruneOptions): Promise<number> {
  const request = { dryRun, unusedImages: all };
  const { items } = await session.connection.call(AdminService.pruneImages, request, PULL_TIMEOUT_MS);
  const rows = items.map(({ kind, name, bytes: count, reason, problem }) => [
    kind,
    name,
    count === 0n ? '-' : bytes(Number(count)),
    problem ? `${reason}; not removed: ${problem}` : reason,
  ]);
  print(session, items, ['KIND', 'NAME', 'SIZE', 'WHY'], rows);
  if (!session.json) session.output.err(`${pruneSummary(items, { dryRun, all })}\n`);
  return items.some(({ problem }) => problem !== '') ? 1 : 0;
}

function pruneSummary(items: readonly PrunedItem[], { dryRun, all }: PruneOptions): string {
  if (items.length === 0) return `nothing to remove${all ? '' : '; --all takes images too that no container uses'}`;
  const gone = items.filter(({ problem }) => problem === '');
  const known = bytes(gone.reduce((sum, item) => sum + Number(item.bytes), 0));
  const space = `${gone.some((item) => item.bytes === 0n) ? 'at least ' : ''}${known}`;
  if (dryRun) return `${space} would be freed; nothing was removed`;
  const left = items.length - gone.length;
  return `${space} freed${left === 0 ? '' : `; ${left} of ${items.length} could not be removed`}`;
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
      await orInUse(session.connection.call(ImageServiceService.removeImage, request));
      removed.push({ id: image.id, names: [...image.repoTags, ...image.repoDigests] });
    }
  } finally {
    if (removed.length > 0 || session.json) printNames(session, removed, removed);
  }
}

async function orInUse<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (err) {
    const isInUse = err instanceof CliError && err.code === status.FAILED_PRECONDITION && /in use by/.test(err.message);
    throw isInUse ? reworded(err, err.message, 'berth ps -a shows it with its pod; berth rm POD removes both') : err;
  }
}

async function findImage({ connection }: Session, reference: string): Promise<Image> {
  const request = ImageStatusRequest.create({ image: { image: reference } });
  const { image } = await orNotHere(connection.call(ImageServiceService.imageStatus, request));
  if (!image) throw notHere(reference);
  return image;
}
