/**
 * Reads a tar archive from front to back: ustar, pax with local and global headers, GNU long names, sparse files in all
 * four forms. It trusts nothing: numbers, lengths and counts are checked, and errors name the member.
 */

import { type BerthError, describe, invalid, wrap } from '../base/errors.ts';
import type { FileTime } from '../sys/at.ts';
import { ByteReader } from './byte-reader.ts';
import { MAX_PAX_BYTES, type PaxRecord, parsePax, paxNumber, paxTime, paxXattr } from './pax.ts';
import { showBytes } from './show-bytes.ts';
import { checkSparseMap, mapFromPax, readOldGnuMap, readPaxMap, type SparseMap } from './sparse-map.ts';
import { BLOCK_BYTES, isZeroBlock, parseHeader, type TarHeader } from './tar-header.ts';

/** What a member is. */
export type TarMemberType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

/** One member of an archive. Names are bytes, as they are in the archive: whoever uses them checks them. */
export interface TarMember {
  readonly type: TarMemberType;
  readonly name: Buffer;
  /** Where a link points. */
  readonly link: Buffer;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of data that follow; only files have any. */
  readonly dataBytes: number;
  /** Where the data goes in a sparse file; undefined for all others. */
  readonly sparse: SparseMap | undefined;
  readonly modifiedAt: FileTime;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  readonly xattrs: readonly { readonly name: string; readonly value: Buffer }[];
}

/** How much a reader takes before it refuses. */
export interface TarLimits {
  /** Headers of all kinds. */
  readonly members: number;
  /** Bytes of data in all members together. */
  readonly dataBytes: number;
}

/** What no image comes near, and what a disk survives. */
export const defaultTarLimits: TarLimits = Object.freeze({ members: 10_000_000, dataBytes: 256 * 1024 ** 3 });

const MAX_NAME_BYTES = 4096;

const types: Readonly<Record<string, TarMemberType>> = Object.freeze({
  '0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
  S: 'file',
});

/** What extension headers say of the member that follows. */
interface Extensions {
  records: readonly PaxRecord[];
  name: Buffer | undefined;
  link: Buffer | undefined;
}

/** A tar archive, member by member. */
export class TarReader {
  readonly #bytes: ByteReader;
  readonly #limits: TarLimits;
  #global: readonly PaxRecord[] = [];
  #headers = 0;
  #dataBytes = 0;
  #name: Buffer = Buffer.alloc(0);
  /** Data of the current member that was not read yet, and what fills its last block. */
  #unread = 0;
  #padding = 0;

  /** `onFrame` sees in order all bytes of the archive but those that `data` returns; windows too. */
  constructor(
    source: AsyncIterable<Buffer>,
    limits: TarLimits = defaultTarLimits,
    onFrame: (bytes: Buffer) => void = () => {},
  ) {
    this.#bytes = new ByteReader(source, onFrame);
    this.#limits = limits;
  }

  /**
   * The next member; what was not read of the one before is passed over. Undefined at the end marker, or where the
   * bytes end between two members: some writers leave the marker out. Throws `invalid`, naming the member, for what is
   * damaged or beyond the limits.
   */
  async next(): Promise<TarMember | undefined> {
    await this.#finishMember();
    const extensions: Extensions = { records: this.#global, name: undefined, link: undefined };
    for (;;) {
      const block = this.#bytes.takeNow(BLOCK_BYTES) ?? (await this.#bytes.take(BLOCK_BYTES));
      if (block.length === 0 || (block.length === BLOCK_BYTES && isZeroBlock(block))) {
        if (extensions.records === this.#global && !extensions.name && !extensions.link) return undefined;
        throw invalid('tar', 'ends where a member should follow its extended header');
      }
      if (block.length < BLOCK_BYTES) throw this.#damaged('the archive is cut off in a header');
      this.#headers += 1;
      if (this.#headers > this.#limits.members) {
        throw this.#damaged(`the archive has more than ${this.#limits.members} members (image.max_layer_files)`);
      }
      const header = this.#parsed(block);
      if (!(await this.#extend(header, extensions))) return await this.#member(header, block, extensions);
    }
  }

  /** The next bytes of the current member's data; empty when there are no more. A window: it holds until the next call. */
  async data(): Promise<Buffer> {
    if (this.#unread === 0) return Buffer.alloc(0);
    const part = await this.#bytes.someUnseen(this.#unread);
    if (part.length === 0) throw this.#damaged(`the archive is cut off, ${this.#unread} bytes of it are missing`);
    this.#unread -= part.length;
    return part;
  }

  /** Says that the current member's data is not in this archive: what fills its last block comes next. */
  withoutData(): void {
    this.#unread = 0;
  }

  /** Reads what follows the end marker, which belongs to the archive's digest and to nothing else. */
  async drain(): Promise<void> {
    await this.#bytes.drain();
  }

  /** Closes the source; needed when reading stops before the end. */
  async close(): Promise<void> {
    await this.#bytes.close();
  }

  #parsed(block: Buffer): TarHeader {
    try {
      return parseHeader(block);
    } catch (err) {
      throw this.#name.length === 0 ? err : wrap(`after member ${showBytes(this.#name)}`, err);
    }
  }

  async #finishMember(): Promise<void> {
    if (this.#unread + this.#padding === 0) return;
    const left = this.#unread + this.#padding;
    [this.#unread, this.#padding] = [0, 0];
    if (this.#bytes.takeNow(left)) return;
    await this.#bytes.skip(left).catch((err: unknown) => {
      throw this.#damaged(describe(err));
    });
  }

  /** Takes in an extension header; false for a member's own. */
  async #extend(header: TarHeader, extensions: Extensions): Promise<boolean> {
    switch (header.type) {
      case 'x':
        extensions.records = [...this.#global, ...parsePax(await this.#extension(header, MAX_PAX_BYTES))];
        return true;
      case 'g':
        this.#global = mergeRecords(this.#global, parsePax(await this.#extension(header, MAX_PAX_BYTES)));
        extensions.records = this.#global;
        return true;
      case 'L':
        extensions.name = withoutNul(await this.#extension(header, MAX_NAME_BYTES + 1));
        return true;
      case 'K':
        extensions.link = withoutNul(await this.#extension(header, MAX_NAME_BYTES + 1));
        return true;
      default:
        return false;
    }
  }

  /** The content of an extension header, a copy. */
  async #extension({ name, size, type }: TarHeader, limit: number): Promise<Buffer> {
    this.#name = name;
    if (size > limit) throw this.#damaged(`its extended header (${type}) is longer than ${limit} bytes`);
    const content = Buffer.from(await this.#bytes.take(size));
    if (content.length < size) throw this.#damaged('the archive is cut off in its extended header');
    await this.#bytes.skip(paddingOf(size));
    return content;
  }

  async #member(header: TarHeader, block: Buffer, extensions: Extensions): Promise<TarMember> {
    const named = { ...header, name: extensions.name ?? header.name, link: extensions.link ?? header.link };
    this.#name = named.name;
    try {
      const member = withRecords(named, extensions.records);
      this.#name = member.name;
      const type = typeOf(member);
      // Links and devices have no data, whatever their size says: so do Go's tar and with it most tools that make images.
      const total = type === 'file' ? member.size : 0;
      [this.#unread, this.#padding] = [total, paddingOf(total)];
      const sparse = type === 'file' ? await this.#sparseMap(header, block, extensions.records) : undefined;
      this.#dataBytes += this.#unread;
      if (this.#dataBytes > this.#limits.dataBytes) {
        throw invalid('tar', `holds more than ${this.#limits.dataBytes} bytes (image.max_layer_gib)`);
      }
      checkName('name', member.name);
      checkName('link', member.link);
      const { name, link, mode, uid, gid, modifiedAt, deviceMajor, deviceMinor, xattrs } = member;
      const own = { name, link, mode, uid, gid, modifiedAt, deviceMajor, deviceMinor, xattrs };
      return { ...own, type, sparse, dataBytes: this.#unread };
    } catch (err) {
      throw wrap(`member ${showBytes(this.#name)}`, err);
    }
  }

  async #sparseMap(header: TarHeader, block: Buffer, records: readonly PaxRecord[]): Promise<SparseMap | undefined> {
    let map: SparseMap | undefined;
    const field = (keyword: string): string =>
      records.findLast(([key]) => key === keyword)?.[1].toString('latin1') ?? '';
    if (header.type === 'S') {
      map = await readOldGnuMap(Buffer.from(block), this.#bytes);
    } else if (field('GNU.sparse.major') === '1') {
      const size = paxNumber('GNU.sparse.realsize', Buffer.from(field('GNU.sparse.realsize')));
      const found = await readPaxMap(size, this.#bytes);
      this.#unread -= found.mapBytes;
      if (this.#unread < 0) throw invalid('sparse map', 'is longer than the member');
      map = found;
    } else {
      map = mapFromPax(records);
    }
    if (map) checkSparseMap(map, this.#unread);
    return map;
  }

  #damaged(problem: string): BerthError {
    return invalid(this.#name.length === 0 ? 'tar' : `member ${showBytes(this.#name)}`, problem);
  }
}

type NamedMember = Omit<TarHeader, 'modifiedSeconds'> & Pick<TarMember, 'modifiedAt' | 'xattrs'>;

/** Lays pax records over a header. An empty value takes the record back, and the header's field counts. */
function withRecords(header: TarHeader, records: readonly PaxRecord[]): NamedMember {
  const { modifiedSeconds, ...own } = header;
  const modifiedAt = { seconds: modifiedSeconds, nanoseconds: 0 };
  if (records.length === 0) return { ...own, modifiedAt, xattrs: [] };
  const member = { ...own, modifiedAt };
  const xattrs = new Map<string, Buffer>();
  let sparseName: Buffer | undefined;
  for (const record of records) {
    const [keyword, value] = record;
    const xattr = paxXattr(record);
    if (xattr) xattrs.set(xattr.name, xattr.value);
    const absent = value.length === 0;
    if (keyword === 'path') member.name = absent ? header.name : value;
    else if (keyword === 'linkpath') member.link = absent ? header.link : value;
    else if (keyword === 'size') member.size = absent ? header.size : paxNumber(keyword, value);
    else if (keyword === 'uid') member.uid = absent ? header.uid : paxNumber(keyword, value);
    else if (keyword === 'gid') member.gid = absent ? header.gid : paxNumber(keyword, value);
    else if (keyword === 'mtime') member.modifiedAt = absent ? modifiedAt : paxTime(keyword, value);
    else if (keyword === 'GNU.sparse.name') sparseName = value;
  }
  // Sparse members have an invented name in front of readers that do not know them.
  if (sparseName) member.name = sparseName;
  return { ...member, xattrs: [...xattrs].map(([name, value]) => ({ name, value })) };
}

/** Global records live as long as the archive, so each keyword is kept once. */
function mergeRecords(global: readonly PaxRecord[], more: readonly PaxRecord[]): readonly PaxRecord[] {
  const merged = [...new Map([...global, ...more].map((record) => [record[0], record])).values()];
  const bytes = merged.reduce((sum, [keyword, value]) => sum + keyword.length + value.length, 0);
  if (bytes > MAX_PAX_BYTES) throw invalid('pax header', `global headers are longer than ${MAX_PAX_BYTES} bytes`);
  return merged;
}

function typeOf({ type, name }: NamedMember): TarMemberType {
  const known = types[type];
  if (known === undefined) throw invalid('type', `${JSON.stringify(type)} is none that Berth unpacks`);
  // v7 had no folders: it wrote them as files with a slash at the end.
  return known === 'file' && name.at(-1) === 0x2f ? 'directory' : known;
}

function checkName(what: string, name: Buffer): void {
  if (name.length > MAX_NAME_BYTES) throw invalid(what, `is longer than ${MAX_NAME_BYTES} bytes`);
  if (name.includes(0)) throw invalid(what, 'contains a NUL byte');
}

function withoutNul(content: Buffer): Buffer {
  const end = content.indexOf(0);
  return end < 0 ? content : content.subarray(0, end);
}

function paddingOf(size: number): number {
  return (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;
}
