/** Layers are unpacked as GNU tar does it, and hostile ones not at all. Needs root, and a disk that carries overlays. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';

import { describe as chain, type ErrorKind, isKind } from '../../src/base/errors.ts';
import { fgetxattr, fsetxattr, lgetxattrat, lsetxattrat } from '../../src/sys/xattr.ts';
import { LayerLab, sha256 } from '../fakes/layer-lab.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { type FakeMember, tarBytes } from '../fakes/tar-bytes.ts';
import { SOON_MS } from '../harness/patience.ts';

const never = new AbortController().signal;
const skip = process.getuid?.() === 0 ? false : 'needs root';

/** All that a tree is, in words: one line for each name. */
function portrait(folder: string): string[] {
  const format = '%P|%y|%m|%U:%G|%T@|%s|%l|%n\n';
  const lines = execFileSync('find', [folder, '-printf', format], { maxBuffer: 1e9 }).toString('latin1').split('\n');
  // A folder's size is the disk's own matter.
  return lines.map((line) => line.replace(/^([^|]*\|d\|(?:[^|]*\|){3})[0-9]+/, '$1')).sort();
}

/** A tree with one of everything. */
function makeTree(folder: string): void {
  const at = (...parts: string[]): string => join(folder, ...parts);
  for (const name of ['etc/deep/er', 'setgid', 'sticky', 'empty']) mkdirSync(at(name), { recursive: true });
  for (let index = 0; index < 200; index += 1) writeFileSync(at('etc/deep', `file-${index}`), 'x'.repeat(index * 37));
  writeFileSync(at('etc/large'), Buffer.alloc(3_000_001, 'large'));
  writeFileSync(at('setuid'), '#!');
  writeFileSync(at('unreadable'), 'secret', { mode: 0 });
  writeFileSync(Buffer.from(join(folder, 'latin-\xff-name'), 'latin1'), 'bytes');
  writeFileSync(at(`${'l'.repeat(120)}`), 'long name');
  linkSync(at('etc/large'), at('hard'));
  symlinkSync('hard', at('soft'));
  symlinkSync('/absolute/nowhere', at('dangling'));
  linkSync(at('dangling'), at('hard-to-link'));
  execFileSync('sh', ['-c', 'mknod null c 1 3; mknod disk b 259 70000; mkfifo -m 640 pipe; chmod 4711 setuid'], {
    cwd: folder,
  });
  execFileSync('sh', ['-c', 'chown -h 12:34 soft; chown 1000:70000 setuid pipe null empty setgid; chmod 4711 setuid'], {
    cwd: folder,
  });
  execFileSync('sh', ['-c', 'chmod 2775 setgid; chmod 1777 sticky; chmod 0 empty'], { cwd: folder });
  writeHoles(at('holes'));
  const fd = openSync(at('setuid'), 'r');
  fsetxattr(fd, 'user.mark', Buffer.from('a\0b'));
  fsetxattr(fd, 'security.capability', Buffer.from('0100000200040000000000000000000000000000', 'hex'));
  closeSync(fd);
  const dirfd = openSync(folder, 'r');
  lsetxattrat(dirfd, 'sticky', 'user.folder', Buffer.from('yes'));
  lsetxattrat(dirfd, 'soft', 'security.berth', Buffer.from('link'));
  closeSync(dirfd);
  lutimesSync(at('soft'), 1, 1_234_567.891);
  for (const name of ['etc/deep', 'sticky', '.']) utimesSync(at(name), 1, 1_111_111.25);
}

function writeHoles(path: string): void {
  writeFileSync(path, 'begin');
  truncateSync(path, 20_000_000);
  const fd = openSync(path, 'r+');
  for (let at = 1; at < 40; at += 1) writeSync(fd, Buffer.alloc(4096, 'd'), 0, 4096, at * 409_600);
  fsyncSync(fd);
  closeSync(fd);
}

describe('unpacked layers', { skip }, () => {
  let lab: LayerLab;
  let fdsBefore: number;

  beforeEach(async () => {
    fdsBefore = openFdCount();
    lab = await LayerLab.open();
  });
  afterEach(async () => {
    await lab.close();
    assert.equal(openFdCount(), fdsBefore, 'open descriptors');
  });

  const nothingLeft = (): void => {
    assert.deepEqual([lab.layers.all(), lab.rows.allLayers()], [[], []]);
    assert.deepEqual(readdirSync(join(lab.root, 'image/layers')), []);
    assert.deepEqual(readdirSync(join(lab.root, 'image/l')), ['empty']);
  };
  const refused = async (tar: Buffer, words: RegExp, kind: ErrorKind = 'invalid'): Promise<void> => {
    await assert.rejects(lab.unpack(tar), (err: unknown) => {
      assert.match(chain(err), words);
      assert.ok(isKind(err, kind), chain(err));
      return true;
    });
    nothingLeft();
  };
  const unpack = async (members: readonly FakeMember[]): Promise<string> =>
    lab.layers.path(await lab.unpack(tarBytes(members)));

  for (const options of [
    ['--format=gnu', '--sparse'],
    ['--format=pax', '--sparse', '--xattrs', '--xattrs-include=*'],
  ]) {
    it(`are what GNU tar makes of ${options.join(' ')}`, async () => {
      const work = await mkdtemp(join(tmpdir(), 'berth-unpack-'));
      try {
        const [source, expected] = [join(work, 'source'), join(work, 'expected')];
        for (const folder of [source, expected]) mkdirSync(folder);
        makeTree(source);
        const tar = execFileSync('tar', [...options, '-C', source, '-cf', '-', '.'], { maxBuffer: 1e9 });
        const extract = [...options.slice(1), '--numeric-owner', '-p', '-C', expected, '-xf', '-'];
        execFileSync('tar', extract, { input: tar, stdio: ['pipe', 'ignore', 'inherit'] });
        const diffId = await lab.unpack(tar);
        const diff = lab.layers.path(diffId);
        assert.deepEqual(portrait(diff), portrait(expected));
        const special = ['null', 'disk', 'pipe'].map((name) => `--exclude=${name}`);
        execFileSync('diff', ['-r', '--no-dereference', ...special, expected, diff], {
          stdio: 'inherit',
          maxBuffer: 1e8,
        });
        assert.ok(lstatSync(join(diff, 'holes')).blocks * 512 < 2_000_000);
        assert.equal(lstatSync(join(diff, 'disk')).rdev, lstatSync(join(source, 'disk')).rdev);
        if (options.includes('--xattrs')) checkXattrs(diff);
        const row = lab.layers.all()[0];
        const inodes = Number(execFileSync('du', ['--inodes', '-s', diff]).toString().split('\t')[0]);
        execFileSync('sync', ['-f', diff]);
        const bytes = Number(execFileSync('du', ['-B1', '-s', diff]).toString().split('\t')[0]);
        assert.equal(row?.inodes, inodes);
        assert.ok(Math.abs((row?.sizeBytes ?? 0) - bytes) <= bytes / 20, `${row?.sizeBytes} for ${bytes}`);
      } finally {
        await rm(work, { recursive: true });
      }
    });
  }

  function checkXattrs(diff: string): void {
    const fd = openSync(join(diff, 'setuid'), 'r');
    const dirfd = openSync(diff, 'r');
    assert.deepEqual(fgetxattr(fd, 'user.mark'), Buffer.from('a\0b'));
    assert.equal(fgetxattr(fd, 'security.capability')?.length, 20);
    assert.deepEqual(lgetxattrat(dirfd, 'sticky', 'user.folder'), Buffer.from('yes'));
    assert.deepEqual(lgetxattrat(dirfd, 'soft', 'security.berth'), Buffer.from('link'));
    closeSync(fd);
    closeSync(dirfd);
  }

  it('come from gzip and zstd in several parts', async () => {
    const tar = tarBytes([
      { name: 'a', data: 'x'.repeat(100_000) },
      { name: 'b', data: 'y'.repeat(50_000) },
    ]);
    const halves = [tar.subarray(0, 70_000), tar.subarray(70_000)];
    const skippable = Buffer.from('5a2a4d1804000000ffffffff', 'hex');
    const packed: [Buffer, 'gzip' | 'zstd' | 'detect'][] = [
      [Buffer.concat(halves.map((half) => gzipSync(half))), 'gzip'],
      [Buffer.concat([skippable, ...halves.map((half) => zstdCompressSync(half)), skippable]), 'zstd'],
      [Buffer.concat(halves.map((half) => zstdCompressSync(half))), 'detect'],
      [gzipSync(tar), 'detect'],
      [tar, 'detect'],
    ];
    for (const [bytes, compression] of packed) {
      await lab.layers.unpack({ path: lab.blob(bytes), compression }, sha256(tar), never);
      assert.equal(readFileSync(join(lab.layers.path(sha256(tar)), 'b'), 'utf8'), 'y'.repeat(50_000));
      await lab.layers.remove(sha256(tar));
      nothingLeft();
    }
    const broken: [Buffer, 'gzip' | 'zstd'][] = [
      [gzipSync(tar).subarray(0, 100), 'gzip'],
      [zstdCompressSync(tar).subarray(0, 40), 'zstd'],
      [Buffer.concat([zstdCompressSync(tar), Buffer.from('garbage!')]), 'zstd'],
      [Buffer.from('garbage'), 'gzip'],
      [Buffer.alloc(0), 'zstd'],
      [Buffer.alloc(0), 'gzip'],
    ];
    for (const [bytes, compression] of broken) {
      const failed = lab.layers.unpack({ path: lab.blob(bytes), compression }, sha256(tar), never);
      await assert.rejects(failed, (err: unknown) => isKind(err, 'invalid') && /inflate/.test(chain(err)));
      nothingLeft();
    }
  });

  it('hash to their diff id, with all that follows the end marker', async () => {
    const tar = Buffer.concat([tarBytes([{ name: 'x' }]), Buffer.alloc(10_000, 'z')]);
    assert.ok(existsSync(join(lab.layers.path(await lab.unpack(tar)), 'x')));
    await lab.layers.remove(sha256(tar));
    const other = lab.layers.unpack({ path: lab.blob(tar), compression: 'none' }, sha256(Buffer.from('y')), never);
    await assert.rejects(other, (err: unknown) => isKind(err, 'precondition') && /not to its diff id/.test(chain(err)));
    nothingLeft();
  });

  it('keep the last of members with the same name', async () => {
    const diff = await unpack([
      { name: 'file', data: 'first' },
      { name: 'file', data: 'second' },
      { name: 'dir/deep/er' },
      { name: 'dir', data: 'now a file' },
      { name: 'was-file' },
      { name: 'was-file/' },
      { name: 'was-file/inside' },
      { name: 'was-link', type: '2', link: '/etc' },
      { name: 'was-link/' },
      { name: 'was-link/passwd', data: 'mine' },
      { name: 'real/x' },
      { name: 'moved', type: '2', link: 'real' },
      { name: 'moved/before' },
      { name: 'moved/' },
      { name: 'moved/after' },
      { name: 'again/before' },
      { name: 'again' },
      { name: 'again/' },
      { name: 'again/after' },
      { name: 'kept/', mode: 0o700 },
      { name: 'kept/inside' },
      { name: 'kept/', mode: 0o750 },
      { name: 'self' },
      { name: 'self', type: '1', link: 'self' },
      { name: 'other', data: 'o' },
      { name: 'other', type: '1', link: 'file' },
    ]);
    assert.equal(readFileSync(join(diff, 'file'), 'utf8'), 'second');
    assert.equal(readFileSync(join(diff, 'dir'), 'utf8'), 'now a file');
    assert.ok(existsSync(join(diff, 'was-file/inside')));
    assert.ok(lstatSync(join(diff, 'was-link')).isDirectory());
    assert.equal(readFileSync(join(diff, 'was-link/passwd'), 'utf8'), 'mine');
    assert.deepEqual(readdirSync(join(diff, 'real')).sort(), ['before', 'x']);
    assert.deepEqual([readdirSync(join(diff, 'moved')), readdirSync(join(diff, 'again'))], [['after'], ['after']]);
    assert.equal(lstatSync(join(diff, 'kept')).mode & 0o7777, 0o750);
    assert.ok(existsSync(join(diff, 'kept/inside')));
    assert.equal(lstatSync(join(diff, 'other')).ino, lstatSync(join(diff, 'file')).ino);
    const inodes = Number(execFileSync('du', ['--inodes', '-s', diff]).toString().split('\t')[0]);
    assert.equal(lab.layers.all()[0]?.inodes, inodes);
  });

  it('stay beneath their root, also through links', async () => {
    const outside = join(lab.base, 'outside');
    mkdirSync(outside);
    const diff = await unpack([
      { name: 'abs', type: '2', link: outside },
      { name: 'abs/one', data: '1' },
      { name: 'up', type: '2', link: '../../../../../../../../..' },
      { name: 'up/two', data: '2' },
      { name: 'chain', type: '2', link: 'up/../abs/deeper' },
      { name: 'chain/three', data: '3' },
      { name: 'real/' },
      { name: 'near', type: '2', link: '/real' },
      { name: 'near/four', data: '4' },
      { name: 'near/hard', type: '1', link: '/near/four' },
      { name: 'sub/root', type: '2', link: '/made/on/the/way' },
      { name: 'sub/root/six', data: '6' },
      { name: 'magic', type: '2', link: '/proc/self/root' },
      { name: 'magic/five', data: '5' },
    ]);
    assert.deepEqual(readdirSync(outside), []);
    assert.equal(readFileSync(join(diff, outside, 'one'), 'utf8'), '1');
    assert.equal(readFileSync(join(diff, 'two'), 'utf8'), '2');
    assert.equal(readFileSync(join(diff, outside, 'deeper/three'), 'utf8'), '3');
    assert.equal(readFileSync(join(diff, 'real/four'), 'utf8'), '4');
    assert.equal(lstatSync(join(diff, 'real/hard')).nlink, 2);
    assert.equal(readFileSync(join(diff, 'made/on/the/way/six'), 'utf8'), '6');
    assert.equal(readFileSync(join(diff, 'proc/self/root/five'), 'utf8'), '5');
  });

  it('turn whiteouts into those of overlayfs', async () => {
    const diff = await unpack([
      { name: '.wh.gone' },
      { name: 'etc/.wh.motd' },
      { name: 'opaque/.wh..wh..opq' },
      { name: 'opaque/kept' },
      { name: '.wh..wh.plnk/123.45' },
      { name: '.wh..wh.aufs' },
      { name: 'there', data: 'wins' },
      { name: '.wh.there' },
      { name: 'dir/' },
      { name: '.wh.dir' },
      { name: '.wh.later' },
      { name: 'later/' },
      { name: '.wh.sooner' },
      { name: 'sooner/file' },
    ]);
    const isWhiteout = (name: string): boolean => {
      const facts = lstatSync(join(diff, name));
      return facts.isCharacterDevice() && facts.rdev === 0;
    };
    const dirfd = openSync(diff, 'r');
    const isOpaque = (name: string): boolean => lgetxattrat(dirfd, name, 'trusted.overlay.opaque')?.toString() === 'y';
    const names = ['dir', 'etc', 'gone', 'later', 'opaque', 'sooner', 'there'];
    assert.deepEqual(readdirSync(diff).sort(), names);
    assert.deepEqual(names.filter(isWhiteout), ['gone']);
    assert.ok(isWhiteout('etc/motd'));
    assert.deepEqual(names.filter(isOpaque), ['dir', 'later', 'opaque', 'sooner']);
    assert.equal(readFileSync(join(diff, 'there'), 'utf8'), 'wins');
    closeSync(dirfd);
  });

  it('never carry attributes that overlayfs obeys', async () => {
    const pax = {
      'SCHILY.xattr.trusted.overlay.redirect': '/etc',
      'SCHILY.xattr.user.overlay.opaque': 'y',
      'SCHILY.xattr.user.ok': '1',
    };
    const diff = await unpack([
      { name: 'd/', pax },
      { name: 'f', pax },
      { name: 'l', type: '2', link: 'f', pax },
    ]);
    const dirfd = openSync(diff, 'r');
    for (const name of ['d', 'f', 'l']) {
      assert.equal(lgetxattrat(dirfd, name, 'trusted.overlay.redirect'), undefined);
      assert.equal(lgetxattrat(dirfd, name, 'user.overlay.opaque'), undefined);
    }
    assert.equal(lgetxattrat(dirfd, 'd', 'user.ok')?.toString(), '1');
    assert.equal(readlinkSync(join(diff, 'l')), 'f');
    closeSync(dirfd);
  });

  const hostile: [string, FakeMember[], RegExp][] = [
    ['an absolute name', [{ name: '/etc/passwd' }], /member "\/etc\/passwd": name: is an absolute path/],
    ['a name that climbs', [{ name: 'a/../../b' }], /"a\/\.\.\/\.\.\/b": name: has "\.\."/],
    ['an empty name', [{ name: '' }], /name: is empty/],
    ['the root as a file', [{ name: './' }, { name: '.' }], /member "\.": name: is that of the root/],
    ['the root as a link', [{ name: '.', type: '2', link: '/' }], /is that of the root/],
    ['a hard link that climbs', [{ name: 'h', type: '1', link: '../../etc/passwd' }], /"h": name: has "\.\."/],
    [
      'a hard link to nothing',
      [{ name: 'h', type: '1', link: 'etc/passwd' }],
      /link: to "etc\/passwd", which is not in/,
    ],
    [
      'a hard link through a link',
      [
        { name: 'l', type: '2', link: '/' },
        { name: 'h', type: '1', link: 'l/etc/passwd' },
      ],
      /which is not in/,
    ],
    ['a hard link to a folder', [{ name: 'd/' }, { name: 'h', type: '1', link: 'd' }], /which is a folder/],
    ['a hard link to what it replaces', [{ name: 'd/f' }, { name: 'd', type: '1', link: 'd/f' }], /which it replaces/],
    ['a whiteout of the folder above', [{ name: 'a/.wh...' }], /member "a\/\.wh\.\.\.": whiteout: of "\.\."/],
    ['a whiteout of itself', [{ name: 'a/.wh..' }], /whiteout: of "\."/],
    ['a whiteout of nothing', [{ name: '.wh.' }], /whiteout: of ""/],
    ['a file as a folder', [{ name: 'f' }, { name: 'f/x' }], /member "f\/x": path: "f" in it is no folder/],
    ['a loop of links', [{ name: 'l', type: '2', link: 'l' }, { name: 'l/x' }], /member "l\/x": path/],
    ['a part too long', [{ name: 'x', pax: { path: 'n'.repeat(256) } }], /longer than 255/],
    ['an owner out of range', [{ name: 'x', pax: { uid: '4294967295' } }], /owner: 4294967295:0/],
    ['an attribute without a name', [{ name: 'x', pax: { 'SCHILY.xattr.': 'v' } }], /member "x"/],
    ['an attribute too large', [{ name: 'x', pax: { 'SCHILY.xattr.user.a': 'v'.repeat(70_000) } }], /member "x"/],
    ['a second, bad member', [{ name: 'good/deep/file', data: 'x' }, { name: '../bad' }], /"\.\.\/bad"/],
  ];
  for (const [what, members, words] of hostile) it(`refuse ${what}`, () => refused(tarBytes(members), words));

  it('refuse what is cut off', () =>
    refused(tarBytes([{ name: 'f', data: 'x'.repeat(5000) }]).subarray(0, 3000), /member "f".*cut off/));

  it('can be removed however deep they are', async () => {
    const members: FakeMember[] = [];
    let last = '';
    for (let index = 0; index < 12; index += 1) {
      const deep = `${last}${'d/'.repeat(150)}`;
      members.push(
        { name: 'x/', pax: { path: deep } },
        { name: 'l', type: '2', pax: { path: `l${index}`, linkpath: deep } },
      );
      last = `l${index}/`;
    }
    const diffId = await lab.unpack(tarBytes(members));
    await lab.layers.remove(diffId);
    nothingLeft();
    await refused(tarBytes([...members, { name: '../bad' }]), /bad/);
  });

  it('are unpacked once for two who ask, and stopped when both leave', async () => {
    const tar = tarBytes(Array.from({ length: 3000 }, (_, index) => ({ name: `file-${index}`, data: 'x' })));
    const source = { path: lab.blob(tar), compression: 'none' as const };
    const [one, two] = await Promise.all([1, 2].map(() => lab.layers.unpack(source, sha256(tar), never)));
    assert.equal(one, two);
    await lab.layers.remove(sha256(tar));
    const left = new AbortController();
    const both = [1, 2].map(() => lab.layers.unpack(source, sha256(tar), left.signal));
    setImmediate(() => left.abort(new Error('client gone')));
    for (const result of await Promise.allSettled(both)) {
      assert.equal(result.status, 'rejected');
      assert.match(chain(result.reason), /client gone/);
    }
    nothingLeft();
  });

  it('are gone at once when they are removed, and unpacked anew while their space is still taken', async () => {
    const tar = tarBytes(Array.from({ length: 3000 }, (_, index) => ({ name: `file-${index}`, data: 'x' })));
    const diffId = await lab.unpack(tar);
    const [row] = lab.layers.all();
    const freed = lab.layers.remove(diffId);
    assert.deepEqual([lab.layers.has(diffId), lab.layers.freeing(), lab.layers.strays()], [false, [row], []]);
    await Promise.all([lab.unpack(tar), lab.unpack(tar)]);
    await freed;
    assert.ok(existsSync(join(lab.layers.path(diffId), 'file-2999')));
    assert.deepEqual([lab.layers.freeing(), readdirSync(join(lab.root, 'image/layers'))], [[], [diffId.slice(7)]]);
    await lab.layers.remove(diffId);
    nothingLeft();
  });

  it('do not wait for the space of what was in their place, behind all else that is removed', async () => {
    const tar = tarBytes([{ name: 'file' }]);
    const diffId = await lab.unpack(tar);
    // As damaged ones, and those of a removal that could not rename them.
    lab.rows.deleteLayer(diffId);
    await lab.restart();
    mkdirSync(join(lab.root, 'image/layers', diffId.slice(7), 'diff'), { recursive: true });
    await lab.layers.freed();
    const run = lab.workers.run.bind(lab.workers);
    const gate = Promise.withResolvers<void>();
    const held: string[] = [];
    const gated: typeof run = async (job, request, signal) => {
      if (job === 'discard') {
        held.push(job);
        await gate.promise;
      }
      return await run(job, request, signal);
    };
    Object.assign(lab.workers, { run: gated });
    try {
      const late = new Promise((resolve) => setTimeout(resolve, SOON_MS, 'late').unref());
      assert.equal(await Promise.race([lab.unpack(tar), late]), diffId);
      assert.deepEqual(held, ['discard']);
    } finally {
      gate.resolve();
      Object.assign(lab.workers, { run });
    }
    await lab.layers.freed();
    await lab.layers.remove(diffId);
    nothingLeft();
  });

  it('leave nothing when a stop cuts their removal short', async () => {
    const tar = tarBytes(Array.from({ length: 3000 }, (_, index) => ({ name: `file-${index}`, data: 'x' })));
    const removed = lab.layers.remove(await lab.unpack(tar));
    await lab.layers.close();
    await removed;
    const [trash = '', ...more] = readdirSync(join(lab.root, 'image/layers'));
    assert.match(trash, /^\.tmp-/);
    assert.deepEqual(more, []);
    await lab.restart();
    await lab.layers.freed();
    nothingLeft();
  });

  it('that no row owns, and rows without a layer, go at the start', async () => {
    const kept = await lab.unpack(tarBytes([{ name: 'kept' }]));
    const lost = await lab.unpack(tarBytes([{ name: 'lost' }]));
    const orphan = await lab.unpack(tarBytes([{ name: 'orphan' }]));
    await rm(join(lab.layers.path(lost), '..'), { recursive: true });
    lab.rows.deleteLayer(orphan);
    mkdirSync(join(lab.root, 'image/layers/.tmp-crashed/diff'), { recursive: true });
    await lab.restart();
    assert.deepEqual(
      [kept, lost, orphan].map((diffId) => lab.layers.has(diffId)),
      [true, false, false],
    );
    assert.equal(lab.layers.shortName(kept), kept.slice(7, 13));
    await lab.layers.freed();
    assert.deepEqual(readdirSync(join(lab.root, 'image/layers')), [kept.slice(7)]);
    assert.deepEqual(readdirSync(join(lab.root, 'image/l')).sort(), [kept.slice(7, 13), 'empty'].sort());
  });
});

describe('layers on ext4', { skip }, () => {
  it('have no file that it cannot hold, however little is in it', async () => {
    const base = await mkdtemp(join(tmpdir(), 'berth-unpack-ext4-'));
    const disk = `${base}.disk`;
    execFileSync('truncate', ['--size', '16M', disk]);
    execFileSync('mkfs.ext4', ['-q', '-F', disk]);
    execFileSync('mount', ['-o', 'loop', disk, base]);
    try {
      const lab = await LayerLab.open({ base, name: 'root' });
      const tar = tarBytes([{ name: 's', pax: { 'GNU.sparse.map': '', 'GNU.sparse.size': String(2 ** 52) } }]);
      await assert.rejects(lab.unpack(tar), (err) => isKind(err, 'invalid') && /member "s"/.test(chain(err)));
      assert.deepEqual(readdirSync(join(base, 'root/image/layers')), []);
      await lab.layers.close();
      await lab.snapshots.close();
      await lab.workers.close();
    } finally {
      execFileSync('umount', [base]);
      await rm(base, { recursive: true });
      await rm(disk);
    }
  });
});

describe('layers on a full disk', { skip }, () => {
  it('fail as exhausted, say where, and leave nothing', async () => {
    const base = await mkdtemp(join(tmpdir(), 'berth-unpack-small-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m,nr_inodes=300', 'berth-test', base]);
    try {
      const lab = await LayerLab.open({ base, name: 'root' });
      const blobs = await mkdtemp(join(tmpdir(), 'berth-unpack-blobs-'));
      const tars = [
        tarBytes([{ name: 'a/b/large', data: Buffer.alloc(3_000_000) }]),
        tarBytes(Array.from({ length: 400 }, (_, index) => ({ name: `a/${index}` }))),
      ];
      for (const tar of tars) {
        const path = join(blobs, 'blob');
        writeFileSync(path, tar);
        await assert.rejects(lab.layers.unpack({ path, compression: 'none' }, sha256(tar), never), (err: unknown) => {
          assert.match(chain(err), new RegExp(`no room for the layer in ${base}/root/image/layers: .*member "a/`));
          return isKind(err, 'exhausted');
        });
        assert.deepEqual(readdirSync(join(base, 'root/image/layers')), []);
      }
      await rm(blobs, { recursive: true });
      await lab.layers.close();
      await lab.snapshots.close();
      await lab.workers.close();
    } finally {
      execFileSync('umount', [base]);
      await rm(base, { recursive: true });
    }
  });
});
