/** Puts a layer's archive together again, from its frame (layer-frame.ts) and its files. For worker threads. */

import { constants, readSync } from 'node:fs';

import { BerthError, describe } from '../base/errors.ts';
import {
  AT_FDCWD,
  closeFd,
  type FileFacts,
  fstatat,
  O_PATH,
  openat,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  readlinkat,
} from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { finishDigest, hashFor } from './digest.ts';
import { inflate } from './inflate.ts';
import { kernelName } from './layer-root.ts';
import { componentsOf } from './member-path.ts';
import { showBytes } from './show-bytes.ts';
import { type TarLimits, type TarMember, type TarMemberType, TarReader } from './tar-reader.ts';
import { whiteoutMeaning } from './whiteout.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG } = constants;

/** A layer on disk. */
export interface KeptLayer {
  readonly diffId: string;
  /** The folder with its files. */
  readonly diff: string;
  readonly frame: string;
}

/** What is wrong with a layer on disk; nothing when `problems` is empty. */
export interface LayerCheck {
  /** The first ones. */
  readonly problems: readonly string[];
  readonly members: number;
}

const CHUNK_BYTES = 256 * 1024;
const MAX_PROBLEMS = 10;
/** It was unpacked under limits of its own, so none are needed again. */
const NO_LIMITS: TarLimits = { members: Number.MAX_SAFE_INTEGER, dataBytes: Number.MAX_SAFE_INTEGER };

const fileTypes: Readonly<Partial<Record<TarMemberType, number>>> = Object.freeze({
  file: S_IFREG,
  symlink: S_IFLNK,
  char: S_IFCHR,
  block: S_IFBLK,
  directory: S_IFDIR,
  fifo: S_IFIFO,
});

/**
 * Hands the layer's archive to `emit`, in windows that hold until it returns. Throws `precondition` for a file that is
 * not there as it was, or when the whole has another digest: then all of it has been handed out.
 */
export async function assembleLayer(
  layer: KeptLayer,
  emit: (bytes: Buffer) => void,
  throwIfCancelled: () => void,
): Promise<void> {
  const hash = hashFor(layer.diffId);
  const both = (bytes: Buffer): void => {
    hash.update(bytes);
    emit(bytes);
  };
  const missing = (name: string): never => {
    throw new BerthError('precondition', `${name} is missing`);
  };
  await walk(layer, { emit: both, throwIfCancelled, seen: () => {}, missing });
  const actual = finishDigest(layer.diffId, hash);
  if (actual !== layer.diffId) throw new BerthError('precondition', `its files make ${actual}`);
}

/** Compares a layer on disk with the archive that it came from: content, kinds, owners and modes of its files. */
export async function checkLayer(layer: KeptLayer, throwIfCancelled: () => void): Promise<LayerCheck> {
  const hash = hashFor(layer.diffId);
  const problems: string[] = [];
  const suspects: string[] = [];
  let members = 0;
  const note = (name: string, problem: string): void => {
    if (problems.length < MAX_PROBLEMS) problems.push(`${name} ${problem}`);
  };
  const seen = (member: TarMember, fd: number): void => {
    const facts = fstatat(fd, '');
    const name = showBytes(member.name);
    members += 1;
    for (const problem of differences(member, facts, fd)) note(name, problem);
    const isOld = member.type !== 'file' || facts.modifiedAt.seconds === member.modifiedAt.seconds;
    if (!isOld && suspects.length < MAX_PROBLEMS) suspects.push(name);
  };
  try {
    const emit = (bytes: Buffer): void => void hash.update(bytes);
    await walk(layer, { emit, throwIfCancelled, seen, missing: (name) => note(name, 'is missing') });
  } catch (err) {
    throwIfCancelled();
    if (problems.length === 0) problems.push(describe(err));
  }
  if (problems.length === 0 && finishDigest(layer.diffId, hash) !== layer.diffId) {
    const where = suspects.length > 0 ? `${suspects.join(', ')} (by the times)` : 'a file';
    problems.push(`what is in ${where} has changed`);
  }
  return { problems, members };
}

interface Walking {
  readonly emit: (bytes: Buffer) => void;
  readonly throwIfCancelled: () => void;
  /** Sees each member that is there. */
  readonly seen: (member: TarMember, fd: number) => void;
  /** Hears of each that is not; may throw. */
  readonly missing: (name: string) => void;
}

async function walk(layer: KeptLayer, walking: Walking): Promise<void> {
  const { emit, throwIfCancelled } = walking;
  const rootfd = openat(AT_FDCWD, layer.diff, O_RDONLY | O_DIRECTORY);
  const tar = new TarReader(inflate({ path: layer.frame, compression: 'zstd' }, throwIfCancelled), NO_LIMITS, emit);
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  try {
    for (let member = await tar.next(); member; member = await tar.next()) {
      throwIfCancelled();
      const components = componentsOf(member.name);
      if (whiteoutMeaning(components).kind === 'none') {
        visit(rootfd, components, member, { ...walking, buffer });
        tar.withoutData();
      }
    }
    await tar.drain();
  } finally {
    closeFd(rootfd);
    await tar.close();
  }
}

function visit(
  rootfd: number,
  components: readonly string[],
  member: TarMember,
  { emit, throwIfCancelled, seen, missing, buffer }: Walking & { readonly buffer: Buffer },
): void {
  const fd = openMember(rootfd, components.join('/') || '.', member.type === 'file');
  if (fd === undefined) {
    // image.layer_devices may have left it out.
    if (member.type === 'char' || member.type === 'block') return;
    missing(showBytes(member.name));
    return;
  }
  try {
    seen(member, fd);
    if (member.type === 'file') copyContent(fd, member, buffer, { emit, throwIfCancelled });
  } finally {
    closeFd(fd);
  }
}

/** Opens what a name leads to, the way it did when the layer was unpacked; undefined when nothing is there. */
function openMember(rootfd: number, path: string, isFile: boolean): number | undefined {
  try {
    const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    const flags = isFile ? O_RDONLY | O_NONBLOCK : O_PATH;
    return openat2(rootfd, kernelName(path), { flags: flags | O_NOFOLLOW, resolve });
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'ENODEV')) return undefined;
    throw err;
  }
}

/** The runs of a file that its archive has: all of it, unless it is sparse. */
function runsOf({ sparse, dataBytes }: TarMember): readonly { readonly offset: number; readonly length: number }[] {
  return sparse?.runs ?? [{ offset: 0, length: dataBytes }];
}

function copyContent(
  fd: number,
  member: TarMember,
  buffer: Buffer,
  { emit, throwIfCancelled }: Pick<Walking, 'emit' | 'throwIfCancelled'>,
): void {
  for (const { offset, length } of runsOf(member)) {
    for (let done = 0; done < length; ) {
      throwIfCancelled();
      const read = readSync(fd, buffer, 0, Math.min(buffer.length, length - done), offset + done);
      if (read === 0) throw new BerthError('precondition', `${showBytes(member.name)} is shorter than it was`);
      emit(buffer.subarray(0, read));
      done += read;
    }
  }
}

/** What differs between a member and what is on disk. */
function differences(member: TarMember, facts: FileFacts, fd: number): string[] {
  const wanted = fileTypes[member.type];
  if (wanted !== undefined && (facts.mode & S_IFMT) !== wanted) return ['is of another kind than it was'];
  // What a folder looks like, its last description says; what a second name of a file looks like, its first.
  if (member.type === 'directory' || member.type === 'hardlink') return [];
  const found: string[] = [];
  if (facts.uid !== member.uid || facts.gid !== member.gid) found.push('has another owner than it had');
  if (member.type === 'symlink') {
    if (!readlinkat(fd, '').equals(member.link)) found.push('points elsewhere than it did');
    return found;
  }
  if ((facts.mode & 0o7777) !== member.mode) found.push('has another mode than it had');
  const size = member.sparse ? member.sparse.size : member.dataBytes;
  if (member.type === 'file' && facts.size !== size) found.push(`has ${facts.size} bytes, and had ${size}`);
  return found;
}
