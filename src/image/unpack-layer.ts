/**
 * Turns a layer's tar into the folder that overlayfs takes as a lower layer: OCI image spec, "Image Layer Filesystem
 * Changeset", sections "Representing Changes" and "Applying Changesets". Synchronous calls, for a worker thread.
 */

import { constants, fchmodSync, ftruncateSync, mkdirSync, readdirSync, writeSync } from 'node:fs';

import { BerthError, because, invalid } from '../base/errors.ts';
import {
  AT_FDCWD,
  closeFd,
  type FileFacts,
  fchmodat,
  fchownat,
  linkat,
  mkdirat,
  mknodat,
  openat,
  symlinkat,
  utimensat,
} from '../sys/at.ts';
import { isErrno, wrapErrno } from '../sys/errno.ts';
import { fsetxattr, lsetxattrat } from '../sys/xattr.ts';
import { finishDigest, hashFor } from './digest.ts';
import { type BlobInput, inflate } from './inflate.ts';
import { FrameWriter } from './layer-frame.ts';
import { isWhiteout, LayerRoot, type Place } from './layer-root.ts';
import { componentsOf } from './member-path.ts';
import { showBytes } from './show-bytes.ts';
import { type TarLimits, type TarMember, type TarMemberType, TarReader } from './tar-reader.ts';
import { treeUsageAt } from './tree-usage.ts';
import { whiteoutMeaning } from './whiteout.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
const { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT } = constants;

/** What becomes of device nodes: they are made, left out, or the layer is refused. */
export type DevicePolicy = 'allow' | 'skip' | 'refuse';

/** What to unpack, and where to. */
export interface UnpackRequest {
  readonly blob: BlobInput;
  /** The folder to make; it must not exist. */
  readonly target: string;
  /** The digest that the uncompressed archive must have; undefined where nobody knows it. */
  readonly diffId: string | undefined;
  /** Paths to hide in lower layers, beside those that the archive's own whiteouts name. */
  readonly hidden?: readonly string[];
  readonly limits: TarLimits;
  /** `allow` if not said. */
  readonly devices?: DevicePolicy | undefined;
  /** Where to write the layer's frame (layer-frame.ts), if anywhere; there is none of one that has a member twice. */
  readonly frame?: string | undefined;
  /** Where to write the folders that the layer needs and does not describe (implied-folders.ts), if anywhere. */
  readonly implied?: string | undefined;
}

/** What came of it. */
export interface UnpackedLayer {
  /** Space on disk in bytes, as du counts it. */
  readonly sizeBytes: number;
  readonly inodes: number;
}

/**
 * Unpacks a layer. Throws `invalid` naming the member that is refused, `precondition` when the digest is another,
 * `exhausted` when the disk is full, what `throwIfCancelled` throws. The target is left as it is then.
 */
export async function unpackLayer(request: UnpackRequest, throwIfCancelled: () => void): Promise<UnpackedLayer> {
  const diffId = request.diffId ?? UNKNOWN;
  const hash = hashFor(diffId);
  const { dataBytes, members } = request.limits;
  // What is around the data counts too, and what follows the end: an archive may be all of that.
  const mostBytes = dataBytes + members * AROUND_MEMBER_BYTES;
  let bytes = 0;
  async function* hashed(): AsyncGenerator<Buffer, void> {
    for await (const chunk of inflate(request.blob, throwIfCancelled)) {
      throwIfCancelled();
      bytes += chunk.length;
      if (bytes > mostBytes) throw invalid('tar', `is longer than ${mostBytes} bytes (image.max_layer_gib)`);
      hash.update(chunk);
      yield chunk;
    }
  }
  mkdirSync(request.target, { mode: 0o755 });
  const rootfd = openat(AT_FDCWD, request.target, O_RDONLY | O_DIRECTORY);
  const frame = request.frame === undefined ? undefined : new FrameWriter(request.frame);
  const tar = new TarReader(hashed(), request.limits, frame && ((part) => frame.add(part)));
  const layer = new LayerWriter(rootfd, request.devices ?? 'allow', members);
  let isFramed = false;
  try {
    fchmodat(rootfd, '.', 0o755);
    for (let member = await tar.next(); member; member = await tar.next()) {
      throwIfCancelled();
      await layer.add(member, tar);
    }
    for (const path of request.hidden ?? []) layer.hide(path);
    await tar.drain();
    const actual = finishDigest(diffId, hash);
    if (request.diffId !== undefined && actual !== request.diffId) {
      throw new BerthError('precondition', `the layer unpacks to ${actual}, not to its diff id ${request.diffId}`);
    }
    const unpacked = layer.finish();
    if (request.implied !== undefined) layer.writeImplied(request.implied);
    if (frame && !layer.hasReplaced) {
      frame.finish({ contentBytes: layer.contentBytes, topNames: readdirSync(request.target).length });
      isFramed = true;
    }
    return unpacked;
  } finally {
    if (!isFramed) frame?.drop();
    layer.close();
    closeFd(rootfd);
    await tar.close();
  }
}

const UNKNOWN = 'sha256:';
const BLOCK_BYTES = 4096;
/** Room for the headers and padding of one member. */
const AROUND_MEMBER_BYTES = 4096;
/** Longer link targets do not fit into the inode (ext4). */
const INLINE_LINK_BYTES = 59;
const MAX_ID = 0xfffffffe;

const specialTypes: Readonly<Partial<Record<TarMemberType, number>>> = Object.freeze({
  char: S_IFCHR,
  block: S_IFBLK,
  fifo: S_IFIFO,
});

class LayerWriter {
  readonly #root: LayerRoot;
  readonly #devices: DevicePolicy;
  readonly #maxInodes: number;
  readonly #umask = process.umask();
  /** Set at the end: what is made in a folder changes its time, and its setgid bit would change what is made in it. */
  readonly #folders = new Map<string, { components: readonly string[]; member: TarMember }>();
  #sizeBytes = BLOCK_BYTES;
  #inodes = 1;
  /** Bytes of its files in the archive. */
  contentBytes = 0;
  /** True when something that the layer brought is not there any more. */
  hasReplaced = false;

  /** `maxInodes`: members imply the folders above them, of which each may have two thousand. */
  constructor(rootfd: number, devices: DevicePolicy, maxInodes: number) {
    this.#devices = devices;
    this.#maxInodes = maxInodes;
    this.#root = new LayerRoot(rootfd, this.#umask, () => this.#count(BLOCK_BYTES));
  }

  /** Puts one member into the folder. */
  async add(member: TarMember, tar: TarReader): Promise<void> {
    try {
      await this.#add(member, tar);
    } catch (err) {
      throw memberError(member, err);
    }
  }

  /** Hides a path of lower layers; in a folder that this one brings, all that lower ones have in it. */
  hide(path: string): void {
    const components = componentsOf(Buffer.from(path), { absolute: true });
    if (components.length > 0) this.#hide(components);
  }

  finish(): UnpackedLayer {
    for (const { components, member } of this.#folders.values()) {
      try {
        this.#describeFolder(components, member);
      } catch (err) {
        throw memberError(member, err);
      }
    }
    return { sizeBytes: this.#sizeBytes, inodes: this.#inodes };
  }

  writeImplied(file: string): void {
    this.#root.implied.write(file, !this.#folders.has(''));
  }

  close(): void {
    this.#root.forget();
  }

  async #add(member: TarMember, tar: TarReader): Promise<void> {
    const components = componentsOf(member.name);
    const meaning = whiteoutMeaning(components);
    switch (meaning.kind) {
      case 'ignore':
        return;
      case 'opaque':
        this.#root.makeOpaque({ dirfd: this.#root.folder(components.slice(0, -1).join('/')), name: '.' });
        return;
      case 'hide':
        this.#hide([...components.slice(0, -1), meaning.name]);
        return;
      case 'none':
    }
    checkIds(member);
    if (this.#devices !== 'allow' && (member.type === 'char' || member.type === 'block')) {
      if (this.#devices === 'skip') return;
      const device = `${member.type} ${member.deviceMajor}:${member.deviceMinor}`;
      throw invalid('type', `is a device node (${device}), which image.layer_devices does not allow`);
    }
    if (member.type === 'directory') this.#folder(components, member);
    else if (components.length === 0) throw invalid('name', 'is that of the root, which can only be a folder');
    else if (member.type === 'file') await this.#file(components, member, tar);
    else if (member.type === 'hardlink') this.#hardLink(components, member);
    else this.#special(components, member);
  }

  /** A whiteout hides what is below the layer, not what the layer itself brings. */
  #hide(components: readonly string[]): void {
    const place = this.#root.place(components);
    const facts = this.#root.facts(place);
    if (!facts) {
      mknodat(place.dirfd, place.name, S_IFCHR);
      this.#count(0);
    } else if ((facts.mode & S_IFMT) === S_IFDIR) {
      this.#root.makeOpaque(place);
    }
  }

  #folder(components: readonly string[], member: TarMember): void {
    const path = components.join('/');
    if (components.length > 0) this.#makeFolder(components);
    this.#root.implied.delete(path);
    // A folder may come twice: the last description counts.
    this.#folders.set(path, { components, member });
  }

  async #file(components: readonly string[], member: TarMember, tar: TarReader): Promise<void> {
    const plainMode = member.mode & 0o777;
    const flags = O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW;
    const fd = this.#create(components, (place) => openat(place.dirfd, place.name, flags, plainMode));
    try {
      const written = await writeData(fd, member, tar);
      this.contentBytes += written;
      this.#sizeBytes += Math.ceil(written / BLOCK_BYTES) * BLOCK_BYTES;
      if (member.uid !== 0 || member.gid !== 0) fchownat(fd, '', member.uid, member.gid);
      for (const { name, value } of member.xattrs) setXattr(name, () => fsetxattr(fd, name, value));
      if (member.mode !== plainMode || (plainMode & this.#umask) !== 0) fchmodSync(fd, member.mode);
      const place = this.#root.place(components);
      utimensat(place.dirfd, place.name, member.modifiedAt, member.modifiedAt);
    } finally {
      closeFd(fd);
    }
  }

  #hardLink(components: readonly string[], member: TarMember): void {
    const target = componentsOf(member.link, { absolute: true });
    const from = target.length === 0 ? undefined : this.#root.find(target);
    const facts = from && this.#root.facts(from);
    if (!from || !facts || isWhiteout(facts)) {
      throw invalid('link', `to ${showBytes(member.link)}, which is not in the layer before it`);
    }
    if ((facts.mode & S_IFMT) === S_IFDIR) throw invalid('link', `to ${showBytes(member.link)}, which is a folder`);
    const to = this.#root.place(components);
    const existing = this.#root.facts(to);
    if (existing?.inode === facts.inode && existing.deviceMinor === facts.deviceMinor) return;
    if (existing) this.#makeRoom(components, to, existing);
    // Looked up again: what made room may have been on the way to the target, or the target itself.
    const source = this.#root.find(target);
    const goal = this.#root.place(components);
    if (!source || !this.#root.facts(source)) throw invalid('link', `to ${showBytes(member.link)}, which it replaces`);
    linkat(source.dirfd, source.name, goal.dirfd, goal.name);
  }

  #special(components: readonly string[], member: TarMember): void {
    const { dirfd, name } = this.#root.place(components);
    const type = specialTypes[member.type];
    this.#create(components, (place) => {
      if (type === undefined) symlinkat(member.link, place.dirfd, place.name);
      else mknodat(place.dirfd, place.name, type | 0o600, member.deviceMajor, member.deviceMinor);
    });
    if (type === undefined && member.link.length > INLINE_LINK_BYTES) this.#sizeBytes += BLOCK_BYTES;
    if (member.uid !== 0 || member.gid !== 0) fchownat(dirfd, name, member.uid, member.gid);
    for (const xattr of member.xattrs) setXattr(xattr.name, () => lsetxattrat(dirfd, name, xattr.name, xattr.value));
    if (type !== undefined) fchmodat(dirfd, name, member.mode);
    utimensat(dirfd, name, member.modifiedAt, member.modifiedAt);
  }

  /** Makes what is no folder; what is in its place goes first. */
  #create<T>(components: readonly string[], make: (place: Place) => T): T {
    const place = this.#root.place(components);
    const made = unlessExists(() => ({ value: make(place) }));
    if (!made) {
      const facts = this.#root.facts(place);
      if (facts) this.#makeRoom(components, place, facts);
    }
    this.#count(0);
    return made ? made.value : make(place);
  }

  /** A folder that is there already stays. */
  #makeFolder(components: readonly string[]): void {
    const place = this.#root.place(components);
    const make = (): true => {
      mkdirat(place.dirfd, place.name, 0o700);
      this.#count(BLOCK_BYTES);
      return true;
    };
    if (unlessExists(make)) return;
    const facts = this.#root.facts(place);
    if (!facts || (facts.mode & S_IFMT) === S_IFDIR) return;
    this.#makeRoom(components, place, facts);
    make();
    // The whiteout said that nothing of the lower layers is seen here.
    if (isWhiteout(facts)) this.#root.makeOpaque(place);
  }

  /** Removes what a later member replaces, and forgets what was known of it. */
  #makeRoom(components: readonly string[], place: Place, facts: FileFacts): void {
    if (!isWhiteout(facts)) this.hasReplaced = true;
    if ((facts.mode & S_IFMT) === S_IFDIR) {
      const path = components.join('/');
      for (const other of this.#folders.keys())
        if (other === path || other.startsWith(`${path}/`)) this.#folders.delete(other);
      this.#root.implied.deleteTree(path);
    }
    const freed = treeUsageAt(place.dirfd, place.name);
    this.#sizeBytes -= freed.usedBytes;
    this.#inodes -= freed.inodesUsed;
    this.#root.remove(place, facts);
  }

  #describeFolder(components: readonly string[], member: TarMember): void {
    const place = this.#root.find(components);
    const fd = place && openFolder(place);
    if (fd === undefined) return;
    try {
      fchownat(fd, '', member.uid, member.gid);
      for (const { name, value } of member.xattrs) setXattr(name, () => fsetxattr(fd, name, value));
      fchmodSync(fd, member.mode);
      utimensat(fd, '.', member.modifiedAt, member.modifiedAt);
    } finally {
      closeFd(fd);
    }
  }

  #count(bytes: number): void {
    this.#inodes += 1;
    this.#sizeBytes += bytes;
    // One more: the root.
    if (this.#inodes > this.#maxInodes + 1)
      throw invalid('path', `makes more than ${this.#maxInodes} files and folders (image.max_layer_files)`);
  }
}

/** Undefined when something is there already. */
function unlessExists<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (err) {
    if (isErrno(err, 'EEXIST')) return undefined;
    throw err;
  }
}

/** A later member may have replaced a folder through another name of it. */
function openFolder({ dirfd, name }: Place): number | undefined {
  try {
    return openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}

/** Writes a member's data, the holes of a sparse one left out. Returns the bytes that were written. */
async function writeData(fd: number, member: TarMember, tar: TarReader): Promise<number> {
  if (!member.sparse) {
    for (let part = await tar.data(); part.length > 0; part = await tar.data()) writeAll(fd, part, null);
    return member.dataBytes;
  }
  ftruncateSync(fd, member.sparse.size);
  let part = Buffer.alloc(0);
  for (const run of member.sparse.runs) {
    for (let done = 0; done < run.length; ) {
      if (part.length === 0) part = (await tar.data()) as Buffer<ArrayBuffer>;
      const now = part.subarray(0, run.length - done);
      writeAll(fd, now, run.offset + done);
      done += now.length;
      part = part.subarray(now.length);
    }
  }
  return member.dataBytes;
}

function writeAll(fd: number, bytes: Buffer, position: number | null): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, position === null ? null : position + done);
  }
}

/**
 * Overlayfs reads its own orders from these attributes, and an image must not give any; what a file system cannot
 * keep is left out, as other runtimes do.
 */
function setXattr(name: string, set: () => void): void {
  if (name.startsWith('trusted.') || name.startsWith('user.overlay.')) return;
  try {
    set();
  } catch (err) {
    // xattr(7): user attributes are for files and folders only; the kernel says EPERM for others.
    if (isErrno(err, 'ENOTSUP') || (name.startsWith('user.') && isErrno(err, 'EPERM'))) return;
    throw err;
  }
}

/** The largest id means "leave as it is" to chown(2). */
function checkIds({ uid, gid }: TarMember): void {
  if (uid > MAX_ID || gid > MAX_ID) throw invalid('owner', `${uid}:${gid} is out of range`);
}

/** What an archive asks for and no file system can do is the archive's fault. */
function memberError(member: TarMember, err: unknown): BerthError {
  const context = `member ${showBytes(member.name)}`;
  const wrapped = wrapErrno(context, err);
  const isCaused = isErrno(err, 'EINVAL', 'ERANGE', 'E2BIG', 'EFBIG', 'EMLINK', 'EILSEQ', 'ELOOP', 'ENOTDIR', 'EXDEV');
  return isCaused ? because('invalid', context, err) : wrapped;
}
