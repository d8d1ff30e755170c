/** Makes tar archives byte by byte, also such as no tool would write. */

/** A member; what is left out has a harmless default. Names may be bytes. */
export interface FakeMember {
  readonly name: string | Buffer;
  /** The type flag; a file by default, a folder for a name that ends in a slash. */
  readonly type?: string;
  readonly link?: string | Buffer;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly data?: string | Buffer;
  /** In the header, where it shall differ from the data's length. */
  readonly size?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Goes in front as a pax header. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
  /** Last changes to the header block, before its checksum is made. */
  readonly patch?: (block: Buffer) => void;
}

/** A whole archive with its end marker. */
export function tarBytes(members: readonly FakeMember[]): Buffer {
  return Buffer.concat([...members.map(memberBytes), Buffer.alloc(1024)]);
}

/** One member with its pax header, filled up to whole blocks. */
export function memberBytes(member: FakeMember): Buffer {
  const data = Buffer.from(member.data ?? '');
  const extended =
    member.pax === undefined ? [] : [memberBytes({ name: 'pax', type: 'x', data: paxBytes(member.pax) })];
  return Buffer.concat([
    ...extended,
    headerBytes(member, data.length),
    data,
    Buffer.alloc((512 - (data.length % 512)) % 512),
  ]);
}

/** The records of a pax header. */
export function paxBytes(records: Readonly<Record<string, string | Buffer>>): Buffer {
  return Buffer.concat(Object.entries(records).map(([keyword, value]) => paxRecord(keyword, Buffer.from(value))));
}

function paxRecord(keyword: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${keyword}=`), value, Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function headerBytes(member: FakeMember, dataLength: number): Buffer {
  const block = Buffer.alloc(512);
  const name = Buffer.from(member.name);
  const type = member.type ?? (name.at(-1) === 0x2f ? '5' : '0');
  const octal = (value: number, at: number, length: number): void => {
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
  };
  name.copy(block, 0, 0, 100);
  octal(member.mode ?? (type === '5' ? 0o755 : 0o644), 100, 8);
  octal(member.uid ?? 0, 108, 8);
  octal(member.gid ?? 0, 116, 8);
  octal(member.size ?? dataLength, 124, 12);
  octal(member.mtime ?? 1_700_000_000, 136, 12);
  block.write(type, 156, 'latin1');
  Buffer.from(member.link ?? '').copy(block, 157, 0, 100);
  block.write('ustar\x0000', 257, 'latin1');
  octal(member.major ?? 0, 329, 8);
  octal(member.minor ?? 0, 337, 8);
  member.patch?.(block);
  writeChecksum(block);
  return block;
}

/** Sums the header up again, after it was changed. */
export function writeChecksum(block: Buffer): void {
  block.fill(0x20, 148, 156);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
}
