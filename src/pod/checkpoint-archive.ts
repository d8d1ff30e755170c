import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';

import * as v from 'valibot';

import { BerthError, because, invalid, wrap } from '../base/errors.ts';
import type { ExtractedMember } from '../image/extract-archive.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord } from './records.ts';

/**
 * What is in the archive of a container, by the names that CRI-O and Podman use (github.com/checkpoint-restore/
 * checkpointctl): whoever reads theirs reads Berth's. `opaque.dirs` is Berth's own.
 */
export const ARCHIVE_NAMES = Object.freeze({
  /** CRIU's images. */
  images: 'checkpoint',
  config: 'config.dump',
  spec: 'spec.dump',
  binds: 'bind.mounts',
  diff: 'rootfs-diff.tar',
  deleted: 'deleted.files',
  opaque: 'opaque.dirs',
  dumpLog: 'dump.log',
  stats: 'stats-dump',
  log: 'container.log',
});

/** On the disk of the root folder: a dump is as large as a container's memory. */
export function workFolder({ checkpointDir }: Pick<PodDeps, 'checkpointDir'>, id: string): string {
  return join(checkpointDir, id);
}

/** Removes it with all that a checkpoint has left there. None is fine. */
export async function removeWorkFolder(deps: Pick<PodDeps, 'checkpointDir'>, id: string): Promise<void> {
  const folder = workFolder(deps, id);
  if (existsSync(folder)) await rm(folder, { recursive: true, force: true });
}

/** config.dump: which container it was. */
export interface CheckpointConfig {
  readonly id: string;
  readonly name: string;
  /** Id of the image, its repo digest, and what people call it. */
  readonly rootfsImage: string;
  readonly rootfsImageRef: string;
  readonly rootfsImageName: string;
  readonly runtime: string;
  readonly createdTime: string;
  readonly checkpointedTime: string;
}

const MAX_TEXT_BYTES = 16 << 20;
const text = v.pipe(v.string(), v.maxLength(4096));
const configSchema = v.object({
  id: text,
  name: text,
  rootfsImage: v.optional(text, ''),
  rootfsImageRef: v.optional(text, ''),
  rootfsImageName: v.optional(text, ''),
  runtime: v.optional(text, ''),
  createdTime: v.optional(text, ''),
  checkpointedTime: v.optional(text, ''),
});
const pathsSchema = v.array(v.pipe(v.string(), v.maxLength(4096)));

/** config.dump of a container that is checkpointed now. */
export function checkpointConfig(record: ContainerRecord, now: Date): CheckpointConfig {
  return {
    id: record.id,
    name: record.spec.name,
    rootfsImage: record.imageId,
    rootfsImageRef: record.imageRef,
    rootfsImageName: record.imageName,
    runtime: record.handler,
    createdTime: new Date(record.createdAtUs / 1000).toISOString(),
    checkpointedTime: now.toISOString(),
  };
}

/** An archive whose members lie in files, by their names in it. */
export class OpenArchive {
  readonly #path: string;
  readonly #files: ReadonlyMap<string, string>;

  constructor(path: string, members: readonly ExtractedMember[]) {
    this.#path = path;
    this.#files = new Map(members.flatMap(({ name, path }) => (path === undefined ? [] : [[name, path]])));
  }

  /** Throws `invalid` when the archive is none of a container. */
  config(): CheckpointConfig {
    return this.#parse(ARCHIVE_NAMES.config, configSchema);
  }

  /** Paths of the image that the container had removed or replaced. */
  hidden(): string[] {
    return [ARCHIVE_NAMES.deleted, ARCHIVE_NAMES.opaque].flatMap((name) =>
      this.#files.has(name) ? this.#parse(name, pathsSchema) : [],
    );
  }

  /** The file that has what the container wrote; undefined when it wrote nothing. */
  diff(): string | undefined {
    return this.#files.get(ARCHIVE_NAMES.diff);
  }

  /** CRIU's images by their names in its folder. Throws `invalid` when there are none, or a folder among them. */
  images(): ReadonlyMap<string, string> {
    const prefix = `${ARCHIVE_NAMES.images}/`;
    const images = new Map<string, string>();
    for (const [name, path] of this.#files) {
      if (!name.startsWith(prefix)) continue;
      const base = name.slice(prefix.length);
      if (base.includes('/')) throw invalid(this.#path, `${name} lies deeper than CRIU puts its images`);
      images.set(base, path);
    }
    if (images.size === 0) throw invalid(this.#path, `has no ${ARCHIVE_NAMES.images}/ with a dump in it`);
    return images;
  }

  #parse<S extends v.GenericSchema>(name: string, schema: S): v.InferOutput<S> {
    const file = this.#files.get(name);
    if (file === undefined) throw invalid(this.#path, `has no ${name}: it is not the checkpoint of a container`);
    return parseJson(file, `${this.#path}: ${name}`, schema);
  }
}

/** pod.json: what the checkpoint of a pod is made of. */
export interface PodCheckpoint {
  readonly version: 1;
  readonly pod: { readonly name: string; readonly namespace: string; readonly uid: string };
  readonly checkpointedTime: string;
  /** Each with its archive, a file beside pod.json. */
  readonly containers: readonly { readonly name: string; readonly archive: string }[];
}

/** The name of the file that describes the checkpoint of a pod. */
export const POD_FILE = 'pod.json';

const fileName = v.pipe(v.string(), v.regex(/^[^/\0]{1,255}$/), v.notValue('.'), v.notValue('..'));
const podSchema = v.object({
  version: v.literal(1),
  pod: v.object({ name: text, namespace: text, uid: text }),
  checkpointedTime: text,
  containers: v.pipe(v.array(v.object({ name: text, archive: fileName })), v.maxLength(1000)),
});

/** Reads the checkpoint of a pod. Throws `invalid` naming the file and what is wrong with it. */
export function readPodCheckpoint(folder: string): PodCheckpoint {
  const file = join(folder, POD_FILE);
  return parseJson(file, file, podSchema);
}

/** By errno: what a client has named instead of a checkpoint. */
const UNREADABLE: ReadonlyMap<unknown, string> = new Map([
  ['ENOENT', 'is not there'],
  ['ENOTDIR', 'lies in what is not a folder'],
  ['ENAMETOOLONG', 'is longer than a path can be'],
  ['ELOOP', 'is a link to itself'],
  ['ENXIO', 'is not a file'],
]);

// A pipe or device in its place would hold up the daemon for ever.
function readText(file: string, what: string): string {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const facts = fstatSync(fd);
    if (!facts.isFile()) throw invalid(what, 'is not a file');
    if (facts.size > MAX_TEXT_BYTES) throw invalid(what, `is larger than ${MAX_TEXT_BYTES} bytes`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

function parseJson<S extends v.GenericSchema>(file: string, what: string, schema: S): v.InferOutput<S> {
  let value: unknown;
  try {
    value = JSON.parse(readText(file, what));
  } catch (err) {
    if (err instanceof BerthError) throw err;
    if (err instanceof SyntaxError) throw because('invalid', `${what}: is not JSON`, err);
    const problem = err instanceof Error && 'code' in err ? UNREADABLE.get(err.code) : undefined;
    if (problem !== undefined) throw because('invalid', `${what}: ${problem}`, err);
    throw wrap(what, err);
  }
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw invalid(what, `${v.getDotPath(issue) ?? 'its content'}: ${issue.message}`);
}
