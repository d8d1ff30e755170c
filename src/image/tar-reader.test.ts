import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import fc from 'fast-check';

import { type FakeMember, memberBytes, paxBytes, tarBytes, writeChecksum } from '../../test/fakes/tar-bytes.ts';
import { describe as chain, isKind } from '../base/errors.ts';
import { type TarLimits, type TarMember, TarReader } from './tar-reader.ts';

/** Cut into pieces, as they would come from an inflater. */
async function* pieces(bytes: Buffer, size = 700): AsyncGenerator<Buffer, void> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

type Read = TarMember & { readonly data: Buffer };

async function readAll(bytes: Buffer, options?: { size?: number; limits?: TarLimits }): Promise<Read[]> {
  const reader = new TarReader(pieces(bytes, options?.size), options?.limits);
  const found: Read[] = [];
  for (let member = await reader.next(); member; member = await reader.next()) {
    const parts: Buffer[] = [];
    for (let part = await reader.data(); part.length > 0; part = await reader.data()) parts.push(Buffer.from(part));
    found.push({ ...member, data: Buffer.concat(parts) });
  }
  await reader.drain();
  return found;
}

async function refused(bytes: Buffer, words: RegExp, limits?: TarLimits): Promise<void> {
  await assert.rejects(readAll(bytes, limits ? { limits } : {}), (err: unknown) => {
    assert.ok(isKind(err, 'invalid'), chain(err));
    assert.match(chain(err), words);
    return true;
  });
}

describe('TarReader', () => {
  it('reads every kind of member', async () => {
    const members: FakeMember[] = [
      { name: 'dir/', mode: 0o1755, uid: 1, gid: 2 },
      { name: 'dir/file', data: 'content', mode: 0o4755 },
      { name: 'old-style-dir/', type: '\0', mode: 0o700 },
      { name: 'old-file', type: '\0', data: 'v7' },
      { name: 'link', type: '2', link: 'dir/file' },
      { name: 'hard', type: '1', link: 'dir/file' },
      { name: 'null', type: '3', major: 1, minor: 3 },
      { name: 'disk', type: '4', major: 8, minor: 17 },
      { name: 'pipe', type: '6' },
      { name: 'contiguous', type: '7', data: 'x'.repeat(513) },
    ];
    const read = await readAll(tarBytes(members));
    assert.deepEqual(
      read.map((member) => [member.name.toString(), member.type, member.data.length]),
      [
        ['dir/', 'directory', 0],
        ['dir/file', 'file', 7],
        ['old-style-dir/', 'directory', 0],
        ['old-file', 'file', 2],
        ['link', 'symlink', 0],
        ['hard', 'hardlink', 0],
        ['null', 'char', 0],
        ['disk', 'block', 0],
        ['pipe', 'fifo', 0],
        ['contiguous', 'file', 513],
      ],
    );
    assert.deepEqual([read[0]?.mode, read[0]?.uid, read[0]?.gid, read[1]?.mode], [0o1755, 1, 2, 0o4755]);
    assert.deepEqual([read[4]?.link.toString(), read[7]?.deviceMajor, read[7]?.deviceMinor], ['dir/file', 8, 17]);
    assert.deepEqual(read[1]?.modifiedAt, { seconds: 1_700_000_000, nanoseconds: 0 });
  });

  it('takes long names from pax, GNU and the ustar prefix', async () => {
    const long = `${'d'.repeat(90)}/${'f'.repeat(90)}`;
    const prefixed: FakeMember = { name: 'f'.repeat(90), patch: (block) => void block.write('d'.repeat(90), 345) };
    const gnu = [
      memberBytes({ name: '././@LongLink', type: 'L', data: `${long}\0` }),
      memberBytes({ name: '././@LongLink', type: 'K', data: `${long}2\0` }),
      memberBytes({ name: 'cut', type: '2', link: 'cut' }),
    ];
    const bytes = Buffer.concat([
      ...gnu,
      tarBytes([{ name: 'x', pax: { path: long, linkpath: `${long}3` } }, prefixed]),
    ]);
    const read = await readAll(bytes);
    assert.deepEqual(
      read.map((member) => [member.name.toString(), member.link.toString()]),
      [
        [long, `${long}2`],
        [long, `${long}3`],
        [long, ''],
      ],
    );
  });

  it('takes owner, time, size and attributes from pax, and lets an empty value fall back', async () => {
    const binary = Buffer.from([0, 0x0a, 0xff, 0x3d]);
    const pax = {
      uid: '3000000',
      gid: '4000000',
      mtime: '-1.25',
      size: '3',
      path: '',
      'SCHILY.xattr.user.a=b': 'never parsed so',
      'SCHILY.xattr.security.capability': binary,
      'LIBARCHIVE.xattr.user.%20': binary.toString('base64'),
    };
    const [member] = await readAll(tarBytes([{ name: 'name', pax, data: 'abc' }]));
    assert.deepEqual([member?.uid, member?.gid, member?.name.toString()], [3_000_000, 4_000_000, 'name']);
    assert.deepEqual(member?.modifiedAt, { seconds: -2, nanoseconds: 750_000_000 });
    assert.deepEqual(member?.xattrs[1], { name: 'security.capability', value: binary });
    assert.deepEqual(member?.xattrs[2], { name: 'user. ', value: binary });
  });

  it('applies global headers until they are changed, and local ones over them', async () => {
    const global = (records: Record<string, string>): Buffer =>
      memberBytes({ name: 'g', type: 'g', data: paxBytes(records) });
    const bytes = Buffer.concat([
      global({ uid: '7', comment: 'x' }),
      memberBytes({ name: 'a' }),
      memberBytes({ name: 'b', pax: { uid: '8' } }),
      global({ uid: '9' }),
      tarBytes([{ name: 'c' }]),
    ]);
    assert.deepEqual(
      (await readAll(bytes)).map((member) => member.uid),
      [7, 8, 9],
    );
  });

  it('reads numbers in base 256', async () => {
    const patch = (block: Buffer): void => {
      block.fill(0, 108, 116).writeUInt8(0x80, 108);
      block.writeUInt32BE(3_000_000_000, 112);
      block.fill(0xff, 136, 148);
      block.writeInt32BE(-5, 144);
    };
    const [member] = await readAll(tarBytes([{ name: 'x', patch }]));
    assert.deepEqual([member?.uid, member?.modifiedAt.seconds], [3_000_000_000, -5]);
  });

  it('ends at the marker, and where the bytes end between members', async () => {
    assert.deepEqual(await readAll(Buffer.alloc(0)), []);
    assert.equal((await readAll(memberBytes({ name: 'x' }))).length, 1);
    assert.equal((await readAll(Buffer.concat([tarBytes([{ name: 'x' }]), Buffer.from('garbage')]))).length, 1);
  });

  const whole = tarBytes([
    { name: 'first', data: 'a'.repeat(600) },
    { name: 'second', data: 'b' },
  ]);
  const damages: [string, Buffer, RegExp][] = [
    ['cut in a header', whole.subarray(0, 300), /cut off in a header/],
    ['cut in data', whole.subarray(0, 900), /member "first": .*212 bytes of it are missing/],
    ['cut in the padding', whole.subarray(0, 512 + 700), /"first"/],
    ['a flipped bit', flipped(whole, 1536 + 3), /after member "first": .*checksum/],
    ['no tar at all', Buffer.from('<html>'.repeat(200)), /checksum/],
    ['a negative size', tarBytes([{ name: 'n', patch: (block) => void block.fill(0xff, 124, 136) }]), /"n": .*size/],
    ['letters for a size', tarBytes([{ name: 'n', patch: (block) => void block.write('12x', 124) }]), /"n": .*size/],
    ['a name with NUL', tarBytes([{ name: 'n', pax: { path: 'a\0b' } }]), /name: contains a NUL/],
    ['a name too long', tarBytes([{ name: 'n', pax: { path: 'a'.repeat(4097) } }]), /longer than 4096/],
    ['a link too long', tarBytes([{ name: 'n', type: '2', pax: { linkpath: 'a'.repeat(4097) } }]), /longer than 4096/],
    ['a long GNU name', tarBytes([{ name: 'n', type: 'L', data: 'a'.repeat(5000) }]), /"n": .*longer than/],
    ['a huge pax header', memberBytes({ name: 'p', type: 'x', size: 2 ** 30 }), /"p": .*longer than 1048576/],
    ['a pax record too short', tarBytes([{ name: 'p', type: 'x', data: '5 a=bcdef\n' }, { name: 'n' }]), /malformed/],
    ['a pax record too long', tarBytes([{ name: 'p', type: 'x', data: '99 a=b\n' }, { name: 'n' }]), /malformed/],
    ['a pax number of letters', tarBytes([{ name: 'n', pax: { uid: '1e3' } }]), /pax uid/],
    ['a pax time of letters', tarBytes([{ name: 'n', pax: { mtime: 'now' } }]), /pax mtime/],
    [
      'an extension without a member',
      tarBytes([{ name: 'p', type: 'x', data: paxBytes({ uid: '1' }) }]),
      /should follow/,
    ],
    ['an unknown type', tarBytes([{ name: 'n', type: 'V' }]), /member "n": type: "V" is none/],
    ['sparse runs that overlap', tarBytes([sparse('0,4,2,2', 8, 6)]), /overlap/],
    ['sparse runs behind the end', tarBytes([sparse('0,4,6,2', 7, 6)]), /behind the end/],
    ['a sparse map for other data', tarBytes([sparse('0,4', 8, 6)]), /maps 4 bytes of 6/],
    ['an odd sparse map', tarBytes([sparse('0,4,5', 8, 4)]), /without a length/],
  ];
  for (const [what, bytes, words] of damages) it(`refuses ${what}`, () => refused(bytes, words));

  it('keeps to its limits', async () => {
    await refused(whole, /"first": .*more than 1 members/, { members: 1, dataBytes: 1e9 });
    await refused(whole, /"second": .*more than 600 bytes/, { members: 10, dataBytes: 600 });
  });

  it('reads any names and data that a tar can hold, however the bytes come', async () => {
    const name = fc.string({
      unit: fc
        .integer({ min: 1, max: 255 })
        .filter((c) => c !== 0x2f)
        .map((c) => String.fromCharCode(c)),
      minLength: 1,
      maxLength: 300,
    });
    const member = fc.record({ name, data: fc.uint8Array({ maxLength: 2000 }), uid: fc.nat(), mtime: fc.nat() });
    await fc.assert(
      fc.asyncProperty(fc.array(member, { maxLength: 5 }), fc.integer({ min: 1, max: 3000 }), async (members, size) => {
        const bytes = tarBytes(
          members.map(({ name, data, uid, mtime }) => {
            const pax = { path: Buffer.from(name, 'latin1'), uid: String(uid), mtime: String(mtime) };
            return { name: 'x', pax, data: Buffer.from(data) };
          }),
        );
        const read = await readAll(bytes, { size });
        assert.deepEqual(
          read.map((one) => [one.name.toString('latin1'), one.uid, one.modifiedAt.seconds, one.data]),
          members.map((one) => [one.name, one.uid, one.mtime, Buffer.from(one.data)]),
        );
      }),
      { numRuns: 150 },
    );
  });

  it('never fails but with an error of its own, whatever the bytes are', async () => {
    const base = tarBytes([
      { name: 'a', pax: { mtime: '1.5', 'GNU.sparse.map': '0,3', 'GNU.sparse.size': '9' }, data: 'abc' },
      { name: 'b/', pax: { path: 'c'.repeat(300) } },
    ]);
    const changes = fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(changes, fc.boolean(), async (changed, resum) => {
        const bytes = Buffer.from(base);
        for (const [at, value] of changed) bytes[at] = value;
        if (resum) for (let at = 0; at + 512 <= bytes.length; at += 1536) writeChecksum(bytes.subarray(at, at + 512));
        await readAll(bytes).catch((err: unknown) => assert.ok(isKind(err, 'invalid'), chain(err)));
      }),
      { numRuns: 300 },
    );
  });
});

describe('TarReader on what GNU tar writes', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-tar-reader-'));
    writeFileSync(join(folder, 'holes'), '');
    truncateSync(join(folder, 'holes'), 10_000_000);
    // More runs than a header and one block of the old format hold.
    for (let at = 8192; at < 9_900_000; at += 303_104) writeAt(join(folder, 'holes'), at);
    writeFileSync(join(folder, `${'long-'.repeat(40)}name`), 'x'.repeat(2000));
    writeFileSync(join(folder, 'ümlaut \n'), 'y');
    symlinkSync('t'.repeat(200), join(folder, 'link'));
  });
  after(() => rmSync(folder, { recursive: true }));

  const formats: [string, string[]][] = [
    ['gnu', ['--format=gnu']],
    ['pax', ['--format=pax']],
    ['gnu, sparse', ['--format=gnu', '--sparse']],
    ...['0.0', '0.1', '1.0'].map((version): [string, string[]] => [
      `pax, sparse ${version}`,
      ['--format=pax', '--sparse', `--sparse-version=${version}`],
    ]),
  ];
  for (const [what, options] of formats) {
    it(`reads ${what}`, async () => {
      const bytes = execFileSync('tar', [...options, '-C', folder, '-cf', '-', '.'], { maxBuffer: 1e8 });
      const read = await readAll(bytes, { size: 60_000 });
      const listed = execFileSync('tar', ['--quoting-style=literal', '--null', '-tf', '-'], {
        input: bytes,
      }).toString();
      assert.deepEqual(read.map((member) => `${member.name.toString()}\n`).join(''), listed);
      assert.equal(read.find((member) => member.type === 'symlink')?.link.toString(), 't'.repeat(200));
      const holes = read.find((member) => member.name.toString() === './holes');
      assert.ok(holes);
      assert.equal(holes.sparse !== undefined, what.includes('sparse'));
      assert.ok(expand(holes).equals(readFileSync(join(folder, 'holes'))));
    });
  }
});

function writeAt(path: string, at: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, randomBytes(4096), 0, 4096, at);
  closeSync(fd);
}

function expand(member: Read): Buffer {
  if (!member.sparse) return member.data;
  const whole = Buffer.alloc(member.sparse.size);
  let at = 0;
  for (const run of member.sparse.runs) at += member.data.copy(whole, run.offset, at, at + run.length);
  return whole;
}

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

function sparse(map: string, size: number, dataLength: number): FakeMember {
  const pax = { 'GNU.sparse.map': map, 'GNU.sparse.size': String(size), 'GNU.sparse.name': 'real' };
  return { name: 'fake', pax, data: 'd'.repeat(dataLength) };
}
