/** Layers are put together again byte by byte, and what is damaged of them is found and mended. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { streamArchive } from '../../src/image/stream-archive.ts';
import { LayerLab, sha256 } from '../fakes/layer-lab.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { type FakeMember, tarBytes } from '../fakes/tar-bytes.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
const never = new AbortController().signal;

describe('the archive of a layer', { skip }, () => {
  let lab: LayerLab;
  let fdsBefore: number;
  beforeEach(async () => {
    fdsBefore = openFdCount();
    lab = await LayerLab.open();
  });
  afterEach(async () => {
    for (const id of lab.snapshots.all()) await lab.snapshots.unmount(id);
    await lab.close();
    assert.equal(openFdCount(), fdsBefore, 'open descriptors');
  });

  /** What the one file of an archive of this layer holds. */
  const archived = async (diffId: string): Promise<Buffer> => {
    const found = lab.layers.archived(diffId);
    assert.ok(found, 'it has a frame');
    const parts: Buffer[] = [];
    for await (const part of streamArchive(lab.workers, [{ name: 'layer', ...found }], never)) parts.push(part);
    const whole = Buffer.concat(parts);
    const size = Number.parseInt(whole.toString('latin1', 124, 135), 8);
    assert.equal(size, found.sizeBytes);
    assert.equal(whole.length % 512, 0);
    return whole.subarray(512, 512 + size);
  };

  it('is the one that was unpacked, whatever is in it', async () => {
    const members: FakeMember[] = [
      { name: './', mode: 0o711 },
      { name: 'etc/', mode: 0o750, uid: 3, gid: 4 },
      { name: './etc/passwd', data: 'root:x:0:0\n', mode: 0o640, uid: 5, gid: 6 },
      { name: 'bin/tool', data: Buffer.alloc(600_000, 'x'), mode: 0o4755 },
      { name: 'bin/again', type: '1', link: 'bin/tool' },
      { name: 'lib', type: '2', link: 'usr/lib' },
      { name: 'usr/lib/' },
      { name: 'lib/through', data: 'a link' },
      { name: 'etc/.wh.gone', data: 'a whiteout has none, and this one does' },
      { name: 'empty' },
      { name: 'etc/.wh..wh..opq' },
      { name: 'pipe', type: '6' },
      { name: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666 },
      { name: 'short', data: 'long', pax: { path: `deep/${'n'.repeat(150)}`, mtime: '1700000000.5' } },
      { name: Buffer.from([0xe9, 0x2f, 0xff]), data: 'no UTF-8' },
    ];
    for (const tail of [Buffer.alloc(0), Buffer.from('what follows the end')]) {
      const tar = Buffer.concat([tarBytes(members), tail]);
      const diffId = await lab.unpack(tar);
      assert.ok((await archived(diffId)).equals(tar));
      assert.deepEqual(await lab.layers.check(diffId, never), []);
    }
  });

  it('is the one of GNU tar, with sparse files, in all its formats', async () => {
    const tree = mkdtempSync(join(lab.base, 'tree-'));
    mkdirSync(join(tree, 'd'.repeat(120), 'e'.repeat(120)), { recursive: true });
    writeFileSync(join(tree, 'd'.repeat(120), 'e'.repeat(120), 'file'), 'deep');
    writeFileSync(join(tree, 'sparse'), 'begin');
    truncateSync(join(tree, 'sparse'), 3_000_000);
    writeFileSync(join(tree, 'sparse'), 'end', { flag: 'a' });
    symlinkSync('s'.repeat(200), join(tree, 'link'));
    for (const format of ['gnu', 'pax', 'oldgnu']) {
      const path = join(lab.base, `${format}.tar`);
      execFileSync('tar', ['-C', tree, '--sparse', `--format=${format}`, '-cf', path, '.']);
      const diffId = await lab.unpack({ path });
      assert.equal(sha256(await archived(diffId)), diffId, format);
      assert.deepEqual(await lab.layers.check(diffId, never), [], format);
    }
  });

  it('has the digest that its image knows it by, and a long name in the archive of images', async () => {
    const tar = tarBytes([{ name: 'file', data: 'content' }]);
    const diffId = `sha512:${createHash('sha512').update(tar).digest('hex')}`;
    await lab.layers.unpack({ path: lab.blob(tar), compression: 'none' }, diffId, never);
    assert.deepEqual(await lab.layers.check(diffId, never), []);
    const found = lab.layers.archived(diffId);
    assert.ok(found);
    const name = `blobs/${diffId.replace(':', '/')}`;
    const saved = join(lab.base, 'saved.tar');
    const parts: Buffer[] = [];
    for await (const part of streamArchive(lab.workers, [{ name, ...found }], never)) parts.push(part);
    writeFileSync(saved, Buffer.concat(parts));
    assert.equal(execFileSync('tar', ['-tf', saved], { encoding: 'utf8' }), `${name}\n`);
    assert.ok(execFileSync('tar', ['-xOf', saved, name]).equals(tar));
    writeFileSync(join(lab.layers.path(diffId), 'file'), 'CONTENT');
    assert.equal((await lab.layers.check(diffId, never))?.length, 1);
  });

  it('is none where a member came twice, and such a layer works all the same', async () => {
    const diffId = await lab.unpack(
      tarBytes([
        { name: 'file', data: 'one' },
        { name: 'file', data: 'two' },
      ]),
    );
    assert.equal(lab.layers.archived(diffId), undefined);
    assert.equal(await lab.layers.check(diffId, never), undefined);
    await lab.restart();
    assert.ok(lab.layers.has(diffId));
  });

  it('ends for a reader that leaves', async () => {
    const diffId = await lab.unpack(tarBytes([{ name: 'large', data: Buffer.alloc(5_000_000, 'y') }]));
    const found = lab.layers.archived(diffId);
    assert.ok(found);
    for await (const part of streamArchive(lab.workers, [{ name: 'layer', ...found }], never)) {
      assert.ok(part.length > 0);
      break;
    }
    const gone = new AbortController();
    const stream = streamArchive(lab.workers, [{ name: 'layer', ...found }], gone.signal);
    await stream.next();
    gone.abort(new Error('left'));
    await assert.rejects(async () => {
      for await (const _part of stream);
    }, /left/);
  });

  const members: FakeMember[] = [
    { name: 'etc/' },
    { name: 'etc/file', data: 'content', mode: 0o640, uid: 7 },
    { name: 'link', type: '2', link: 'etc' },
  ];
  const damages: [string, (diff: string) => void, RegExp][] = [
    ['a file that is gone', (diff) => rmSync(join(diff, 'etc/file')), /"etc\/file" is missing/],
    ['a file that is shorter', (diff) => truncateSync(join(diff, 'etc/file'), 3), /has 3 bytes, and had 7/],
    [
      'other content of the same length',
      (diff) => writeFileSync(join(diff, 'etc/file'), 'CONTENT'),
      /what is in "etc\/file" \(by the times\) has changed/,
    ],
    [
      'other content under the old time',
      (diff) => {
        writeFileSync(join(diff, 'etc/file'), 'CONTENT');
        utimesSync(join(diff, 'etc/file'), 1_700_000_000, 1_700_000_000);
      },
      /what is in a file has changed/,
    ],
    ['another mode', (diff) => chmodSync(join(diff, 'etc/file'), 0o4755), /another mode/],
    ['another owner', (diff) => chownSync(join(diff, 'etc/file'), 8, 0), /another owner/],
    [
      'another kind',
      (diff) => {
        rmSync(join(diff, 'link'));
        mkdirSync(join(diff, 'link'));
      },
      /"link" is of another kind/,
    ],
    [
      'a link to elsewhere',
      (diff) => {
        rmSync(join(diff, 'link'));
        symlinkSync('/tmp', join(diff, 'link'));
      },
      /"link" points elsewhere/,
    ],
  ];
  for (const [what, damage, expected] of damages) {
    it(`tells ${what}, and the layer is unpacked anew`, async () => {
      const tar = tarBytes(members);
      const diffId = await lab.unpack(tar);
      damage(lab.layers.path(diffId));
      const problems = await lab.layers.check(diffId, never);
      assert.match(problems?.join('; ') ?? '', expected);
      assert.ok(!lab.layers.has(diffId));
      await lab.unpack(tar);
      assert.deepEqual(await lab.layers.check(diffId, never), []);
      assert.equal(readFileSync(join(lab.layers.path(diffId), 'etc/file'), 'utf8'), 'content');
    });
  }

  it('is looked at for a moment at each start', async () => {
    const kept = await lab.unpack(tarBytes(members));
    const [gone, emptied] = [
      await lab.unpack(tarBytes([{ name: 'one', data: '1' }])),
      await lab.unpack(tarBytes([{ name: 'two', data: '2' }])),
    ];
    rmSync(lab.layers.path(gone), { recursive: true });
    rmSync(join(lab.layers.path(emptied), 'two'));
    await lab.restart();
    assert.deepEqual(
      [kept, gone, emptied].map((diffId) => lab.layers.has(diffId)),
      [true, false, false],
    );
  });

  it('takes the place of a damaged layer without pulling the rug out from under what runs on that', async () => {
    const tar = tarBytes([
      { name: 'one', data: '1' },
      { name: 'two', data: '2' },
    ]);
    const diffId = await lab.unpack(tar);
    const { rootfs } = await lab.snapshots.mount('c1', [diffId]);
    rmSync(join(lab.layers.path(diffId), 'one'));
    assert.match((await lab.layers.check(diffId, never))?.join() ?? '', /names/);
    await lab.unpack(tar);
    assert.equal(readFileSync(join(rootfs, 'two'), 'utf8'), '2');
    const folders = (): string[] => readdirSync(join(lab.root, 'image/layers')).sort();
    assert.deepEqual(
      folders().map((name) => name.slice(0, 6)),
      ['.kept-', diffId.slice(7, 13)],
    );
    await lab.restart();
    assert.equal(readFileSync(join(rootfs, 'two'), 'utf8'), '2');
    assert.equal(lab.layers.strays().length, 0);
    await lab.snapshots.unmount('c1');
    const [stray = ''] = lab.layers.strays();
    await lab.layers.removeStray(stray);
    assert.deepEqual(folders(), [diffId.slice(7)]);
  });
});
