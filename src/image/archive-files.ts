import { randomBytes } from 'node:crypto';
import { constants, fstatSync, lstatSync, readSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

import { BerthError, because, invalid, wrap } from '../base/errors.ts';
import { AT_FDCWD, closeFd, openat, openat2, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import type { DiskWorkers } from './disk-workers.ts';
import type { ExtractedMember } from './extract-archive.ts';
import { defaultTarLimits } from './tar-reader.ts';

/** The files of an image archive, whether it is a folder or a tar. Names are paths in the archive. */
export interface ArchiveFiles {
  has(name: string): boolean;
  /** A whole small file. Throws `invalid` for one that is missing, no file, or larger than `limitBytes`. */
  read(name: string, limitBytes: number): Promise<Buffer>;
  /** Where a file is on disk, with the digest of what is in it. Throws `invalid` for one that is missing. */
  locate(name: string, signal: AbortSignal): Promise<{ readonly path: string; readonly digest: string }>;
  /** Removes what was made to read the archive. */
  dispose(): Promise<void>;
}

/** Links that `docker save` writes are one deep; more is a loop or a trick. */
const MAX_LINKS = 8;

/**
 * Opens an archive: a folder is read in place, a tar (also a compressed one) is extracted below `scratch` first.
 * Throws `invalid` for what is neither.
 */
export async function openArchive(
  path: string,
  scratch: string,
  workers: DiskWorkers,
  signal: AbortSignal,
): Promise<ArchiveFiles> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw invalid('path', `${path} does not exist`);
  if (stat.isDirectory()) return new FolderFiles(path, workers);
  if (!stat.isFile()) throw invalid('path', `${path} is neither a folder nor a file`);
  await mkdir(scratch, { recursive: true, mode: 0o700 });
  const target = join(scratch, `load-${randomBytes(8).toString('hex')}`);
  const members = await workers.run('extract', { archive: path, target, limits: defaultTarLimits }, signal);
  return new ExtractedFiles(path, members, () => workers.run('remove', target));
}

/** An archive that is a folder. Its names are looked up beneath it; symbolic links are not followed. */
class FolderFiles implements ArchiveFiles {
  readonly #folder: string;
  readonly #workers: DiskWorkers;

  constructor(folder: string, workers: DiskWorkers) {
    this.#folder = folder;
    this.#workers = workers;
  }

  has(name: string): boolean {
    return lstatSync(join(this.#folder, name), { throwIfNoEntry: false })?.isFile() ?? false;
  }

  async read(name: string, limitBytes: number): Promise<Buffer> {
    const what = `${name} in ${this.#folder}`;
    const fd = openInside(this.#folder, name, what);
    try {
      return readLimited(fd, what, limitBytes);
    } finally {
      closeFd(fd);
    }
  }

  async locate(name: string, signal: AbortSignal): Promise<{ path: string; digest: string }> {
    try {
      const digest = await this.#workers.run('digest', { folder: this.#folder, name }, signal);
      return { path: join(this.#folder, name), digest };
    } catch (err) {
      signal.throwIfAborted();
      throw because('invalid', `${name} in ${this.#folder}`, err);
    }
  }

  async dispose(): Promise<void> {}
}

/** An archive that was a tar; its members lie on disk under names of our own. */
class ExtractedFiles implements ArchiveFiles {
  readonly #archive: string;
  readonly #members: ReadonlyMap<string, ExtractedMember>;
  readonly #remove: () => Promise<unknown>;

  constructor(archive: string, members: readonly ExtractedMember[], remove: () => Promise<unknown>) {
    this.#archive = archive;
    this.#members = new Map(members.map((member) => [member.name, member]));
    this.#remove = remove;
  }

  has(name: string): boolean {
    return this.#members.has(name);
  }

  async read(name: string, limitBytes: number): Promise<Buffer> {
    return await readSmall(this.#find(name).path, `${name} in ${this.#archive}`, limitBytes);
  }

  async locate(name: string): Promise<{ path: string; digest: string }> {
    return this.#find(name);
  }

  async dispose(): Promise<void> {
    await this.#remove();
  }

  #find(name: string): { path: string; digest: string } {
    let member = this.#members.get(name);
    for (let links = 0; member?.linkTo !== undefined && links < MAX_LINKS; links++) {
      member = this.#members.get(member.linkTo);
    }
    if (member?.path !== undefined) return { path: member.path, digest: member.digest };
    throw invalid('path', `${this.#archive} has no file ${name}`);
  }
}

/** Opens a file of a folder that its owner may have filled with traps: links, pipes, names that climb. */
function openInside(folder: string, name: string, what: string): number {
  const dirfd = openat(AT_FDCWD, folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    return openat2(dirfd, name, { flags: constants.O_RDONLY | constants.O_NONBLOCK, resolve });
  } catch (err) {
    if (isErrno(err, 'ELOOP', 'EXDEV')) throw because('invalid', `${what} is a link, or leads out of it`, err);
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) throw because('invalid', `${what} is missing`, err);
    throw wrap(`read ${what}`, err);
  } finally {
    closeFd(dirfd);
  }
}

async function readSmall(path: string, what: string, limitBytes: number): Promise<Buffer> {
  const fd = openat(AT_FDCWD, path, constants.O_RDONLY);
  try {
    return readLimited(fd, what, limitBytes);
  } finally {
    closeFd(fd);
  }
}

/** A few megabytes at most, from the page cache: that is quicker than asking another thread. */
function readLimited(fd: number, what: string, limitBytes: number): Buffer {
  const facts = fstatSync(fd);
  if (!facts.isFile()) throw new BerthError('invalid', `${what} is no regular file`);
  if (facts.size > limitBytes) {
    throw new BerthError('invalid', `${what} has ${facts.size} bytes; ${limitBytes} are the limit`);
  }
  const bytes = Buffer.alloc(facts.size);
  let length = 0;
  while (length < bytes.length) {
    const more = readSync(fd, bytes, length, bytes.length - length, length);
    if (more === 0) break;
    length += more;
  }
  return bytes.subarray(0, length);
}
