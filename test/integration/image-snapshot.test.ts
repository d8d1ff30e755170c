/** Snapshots show what overlayfs makes of layers. Needs root, and a disk that carries overlays. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { systemClock } from '../../src/base/clock.ts';
import { describe as chain, isKind } from '../../src/base/errors.ts';
import { silentLogger } from '../../src/base/log.ts';
import { ImageFilesystems } from '../../src/image/disk-usage.ts';
import { WritableLayers } from '../../src/image/writable-layers.ts';
import { readMounts, unmount } from '../../src/sys/mount.ts';
import { LayerLab } from '../fakes/layer-lab.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { type FakeMember, tarBytes } from '../fakes/tar-bytes.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';

describe('snapshots', { skip }, () => {
  let lab: LayerLab;
  let fdsBefore: number;

  beforeEach(async () => {
    fdsBefore = openFdCount();
    lab = await LayerLab.open();
  });
  afterEach(async () => {
    await lab.close();
    assert.deepEqual(mountsBeneath(lab.base), []);
    assert.equal(openFdCount(), fdsBefore, 'open descriptors');
  });

  const mountsBeneath = (folder: string): string[] =>
    readMounts().flatMap((mount) => (mount.mountPoint.startsWith(folder) ? [mount.mountPoint] : []));
  const unpackAll = async (layers: readonly (readonly FakeMember[])[]): Promise<string[]> => {
    const diffIds: string[] = [];
    for (const members of layers) diffIds.push(await lab.unpack(tarBytes(members)));
    return diffIds;
  };
  const facts = (path: string): [string, number, number] => {
    const { mode, uid, gid } = lstatSync(path);
    return [(mode & 0o7777).toString(8), uid, gid];
  };

  it('show the layers in their order, without what whiteouts hide', async () => {
    const diffIds = await unpackAll([
      [
        { name: 'same', data: 'base' },
        { name: 'gone', data: 'x' },
        { name: 'opaque/old' },
        { name: 'kept/old' },
        { name: 'replaced/old' },
      ],
      [{ name: 'same', data: 'middle' }, { name: '.wh.gone' }, { name: 'opaque/.wh..wh..opq' }, { name: 'opaque/new' }],
      [{ name: 'same', data: 'top' }, { name: 'kept/new' }, { name: '.wh.replaced' }, { name: 'replaced/new' }],
    ]);
    const { rootfs } = await lab.snapshots.mount('c1', diffIds);
    assert.equal(rootfs, lab.snapshots.rootfs('c1'));
    assert.deepEqual(readdirSync(rootfs).sort(), ['kept', 'opaque', 'replaced', 'same']);
    assert.equal(readFileSync(join(rootfs, 'same'), 'utf8'), 'top');
    assert.deepEqual(readdirSync(join(rootfs, 'kept')).sort(), ['new', 'old']);
    assert.deepEqual([readdirSync(join(rootfs, 'opaque')), readdirSync(join(rootfs, 'replaced'))], [['new'], ['new']]);
  });

  it('keep what each container writes to itself', async () => {
    const diffIds = await unpackAll([[{ name: 'file', data: 'image' }]]);
    const [one, two] = await Promise.all(['c1', 'c2'].map((id) => lab.snapshots.mount(id, diffIds)));
    assert.ok(one && two);
    writeFileSync(join(one.rootfs, 'file'), 'changed');
    rmSync(join(two.rootfs, 'file'));
    assert.equal(readFileSync(join(lab.layers.path(diffIds[0] ?? ''), 'file'), 'utf8'), 'image');
    assert.deepEqual([readFileSync(join(one.rootfs, 'file'), 'utf8'), readdirSync(two.rootfs)], ['changed', []]);
    assert.deepEqual(lab.snapshots.all().sort(), ['c1', 'c2']);
    for (const id of ['c1', 'c2']) {
      await lab.snapshots.unmount(id);
      await lab.snapshots.unmount(id);
      await lab.snapshots.remove(id);
      await lab.snapshots.remove(id);
    }
    assert.deepEqual(readdirSync(join(lab.root, 'snapshots')), []);
  });

  it('take owner and mode of folders that a layer does not describe from those below', async () => {
    const diffIds = await unpackAll([
      [
        { name: './', mode: 0o711, uid: 7, gid: 8 },
        { name: 'tmp/', mode: 0o1777 },
        { name: 'srv/', mode: 0o750, uid: 5, gid: 6 },
        { name: 'srv/deep/', mode: 0o700 },
        { name: 'plain/' },
        { name: 'hidden/', mode: 0o700 },
      ],
      [{ name: 'tmp/file' }, { name: 'hidden/.wh..wh..opq' }],
      [{ name: 'srv/deep/file' }, { name: 'new/file' }, { name: 'plain/file' }],
      [{ name: 'srv/', mode: 0o555 }],
    ]);
    for (const id of ['c1', 'c2']) {
      const { rootfs } = await lab.snapshots.mount(id, diffIds);
      assert.deepEqual(facts(rootfs), ['711', 7, 8]);
      assert.deepEqual(facts(join(rootfs, 'tmp')), ['1777', 0, 0]);
      assert.deepEqual(facts(join(rootfs, 'srv')), ['555', 0, 0]);
      assert.deepEqual(facts(join(rootfs, 'srv/deep')), ['700', 0, 0]);
      assert.deepEqual(facts(join(rootfs, 'new')), ['755', 0, 0]);
      assert.ok(existsSync(join(rootfs, 'srv/deep/file')));
      assert.ok(!existsSync(join(lab.root, 'snapshots', id, 'upper/plain')));
    }
  });

  it('take it for many folders too, with the ids of a user namespace', async () => {
    // More than is remembered of an image.
    const names = Array.from({ length: 4000 }, (_, index) => `data/${'long-'.repeat(15)}${index}`);
    const diffIds = await unpackAll([
      names.map((name, index) => ({ name: `${name}/`, mode: 0o700, uid: index % 7, gid: index % 5 })),
      names.map((name) => ({ name: `${name}/file` })),
    ]);
    for (const id of ['c1', 'c2']) {
      const { rootfs } = await lab.snapshots.mount(id, diffIds);
      for (const [index, name] of names.entries())
        assert.deepEqual(facts(join(rootfs, name)), ['700', index % 7, index % 5]);
    }
    const uids = [{ containerId: 0, hostId: 100_000, length: 65_536 }];
    const gids = [{ containerId: 0, hostId: 200_000, length: 65_536 }];
    const inherited = await lab.workers.run(
      'inherit',
      diffIds.map((diffId) => ({ diff: lab.layers.path(diffId), implied: lab.layers.impliedPath(diffId) })),
    );
    const { rootfs } = await lab.snapshots.mount('c3', diffIds);
    await lab.workers.run('describe', { rootfs, folders: inherited, owner: { uids, gids } });
    assert.deepEqual(facts(join(rootfs, names[6] ?? '')), ['700', 100_006, 200_001]);
  });

  it('need no layers', async () => {
    const { rootfs } = await lab.snapshots.mount('c1', []);
    writeFileSync(join(rootfs, 'x'), '');
    assert.deepEqual(facts(rootfs), ['755', 0, 0]);
    assert.deepEqual(readdirSync(rootfs), ['x']);
  });

  it('hold 127 layers, also under a long root', async () => {
    for (const name of ['root', `${'long-'.repeat(20)}root`]) {
      const other = await LayerLab.open({ name });
      try {
        const diffIds: string[] = [];
        for (let index = 0; index < 127; index += 1)
          diffIds.push(await other.unpack(tarBytes([{ name: `f${index}` }])));
        const { rootfs } = await other.snapshots.mount('c'.repeat(64), diffIds);
        assert.equal(readdirSync(rootfs).length, 127);
      } finally {
        await other.close();
      }
    }
  });

  it('work under a root with signs that mean something in mount options', async () => {
    const other = await LayerLab.open({ name: 'a,b:c\\d e=f' });
    try {
      const diffIds = [
        await other.unpack(tarBytes([{ name: 'one' }])),
        await other.unpack(tarBytes([{ name: 'two' }])),
      ];
      const { rootfs } = await other.snapshots.mount('c1', diffIds);
      writeFileSync(join(rootfs, 'three'), '');
      assert.deepEqual(readdirSync(rootfs).sort(), ['one', 'three', 'two']);
      assert.ok(existsSync(join(other.root, 'snapshots/c1/upper/three')));
    } finally {
      await other.close();
    }
  });

  it('can be mounted read-only', async () => {
    const diffIds = await unpackAll([[{ name: 'one' }], [{ name: 'two' }]]);
    const target = join(lab.base, 'volume');
    mkdirSync(target);
    for (const some of [diffIds, diffIds.slice(0, 1)]) {
      lab.snapshots.mountReadonly(target, some);
      assert.equal(readdirSync(target).length, some.length);
      assert.throws(() => writeFileSync(join(target, 'x'), ''), /EROFS/);
      unmount(target);
    }
  });

  it('wait for no disk unless that is wanted, and go either way', async () => {
    const isVolatile = (rootfs: string): boolean => {
      const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
      // A newer kernel calls it fsync=volatile.
      return /[,=]volatile(,|$)/.test(mounts.find((mount) => mount.includes(` ${rootfs} `)) ?? '');
    };
    const diffIds = await unpackAll([[{ name: 'one' }]]);
    for (const wanted of [true, false]) {
      lab.wantsVolatile = wanted;
      await lab.restart();
      const { rootfs } = await lab.snapshots.mount('c1', diffIds);
      assert.equal(isVolatile(rootfs), wanted);
      writeFileSync(join(rootfs, 'one'), 'changed', { flush: true });
      await lab.snapshots.unmount('c1');
      await lab.snapshots.remove('c1');
      assert.deepEqual(readdirSync(join(lab.root, 'snapshots')), []);
    }
  });

  it('are made also after an error of their disk that nobody has seen', async () => {
    const base = await mkdtemp(join(tmpdir(), 'berth-snapshot-error-'));
    const [store, disk] = [join(base, 'store'), join(base, 'disk')];
    for (const folder of [store, disk]) mkdirSync(folder);
    // A disk that has less room than it says: what is written last is lost.
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'berth-test', store]);
    execFileSync('truncate', ['--size', '64M', join(store, 'image')]);
    execFileSync('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', join(store, 'image')]);
    execFileSync('mount', ['-o', 'loop', join(store, 'image'), disk]);
    try {
      const small = await LayerLab.open({ base: join(disk, 'lab') });
      execFileSync('sync');
      writeFileSync(join(disk, 'large'), randomBytes(30_000_000));
      execFileSync('sync');
      execFileSync('mount', ['-o', 'remount,size=100m', store]);
      rmSync(join(disk, 'large'));
      for (const again of [false, true]) {
        if (again) await small.restart();
        const { rootfs } = await small.snapshots.mount('c1', []);
        writeFileSync(join(rootfs, 'file'), '');
        await small.snapshots.unmount('c1');
        await small.snapshots.remove('c1');
        assert.ok(small.snapshots.refusesVolatile);
      }
      // It tells of the error, which has been seen then.
      assert.equal(spawnSync('sync', ['--file-system', disk]).status, 1);
      await small.snapshots.mount('c1', []);
      assert.ok(!small.snapshots.refusesVolatile);
      await small.snapshots.unmount('c1');
      await small.close();
    } finally {
      execFileSync('umount', [disk]);
      execFileSync('umount', [store]);
      rmSync(base, { recursive: true });
    }
  });

  it('leave nothing when they cannot be made', async () => {
    const [diffId = ''] = await unpackAll([[{ name: 'x' }]]);
    const missing = `sha256:${'0'.repeat(64)}`;
    await assert.rejects(lab.snapshots.mount('c1', [diffId, missing]), (err) => isKind(err, 'notFound'));
    assert.deepEqual(lab.snapshots.all(), []);
    rmSync(lab.layers.path(diffId), { recursive: true });
    await assert.rejects(lab.snapshots.mount('c1', [diffId]), /mount snapshot of container c1|no such file/);
    assert.deepEqual(lab.snapshots.all(), []);
    await lab.snapshots.mount('c2', []);
    await assert.rejects(lab.snapshots.mount('c2', []), (err) => isKind(err, 'alreadyExists'));
    assert.equal(mountsBeneath(lab.base).length, 1);
    await assert.rejects(lab.snapshots.mount('../c3', []), (err) => isKind(err, 'invalid'));
  });

  it('go when they are large and hostile, and not while they are mounted', async () => {
    const { rootfs } = await lab.snapshots.mount('c1', []);
    for (let index = 0; index < 500; index += 1) writeFileSync(join(rootfs, `file-${index}`), '');
    execFileSync(
      'sh',
      ['-c', 'ln -s / root; ln -s .. up; mkfifo pipe; for i in $(seq 1 700); do mkdir d && cd d; done'],
      { cwd: rootfs },
    );
    await assert.rejects(lab.snapshots.remove('c1'), (err) => isKind(err, 'precondition'));
    assert.equal(readdirSync(rootfs).length, 504);
    await lab.snapshots.unmount('c1');
    await lab.snapshots.remove('c1');
    assert.deepEqual(readdirSync(join(lab.root, 'snapshots')), []);
  });

  it('survive the daemon, and half-removed ones go at the start', async () => {
    const diffIds = await unpackAll([[{ name: 'x' }]]);
    const { rootfs } = await lab.snapshots.mount('c1', diffIds);
    mkdirSync(join(lab.root, 'snapshots/.trash-1/upper/x'), { recursive: true });
    // As a daemon leaves it that is killed while it tries overlays.
    const [lower, merged] = ['lower', 'merged'].map((name) => join(lab.root, 'snapshots/.probe-1', name));
    for (const folder of [lower, merged]) mkdirSync(folder ?? '', { recursive: true });
    execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', `ro,lowerdir=${lower}:${rootfs}`, merged ?? '']);
    await lab.restart();
    await lab.snapshots.close();
    assert.deepEqual(readdirSync(join(lab.root, 'snapshots')), ['c1']);
    assert.deepEqual(readdirSync(rootfs), ['x']);
    assert.deepEqual(lab.snapshots.all(), ['c1']);
  });

  it('are counted without what the image brought', async () => {
    const diffIds = await unpackAll([[{ name: 'image', data: Buffer.alloc(500_000, 'x') }]]);
    const { rootfs } = await lab.snapshots.mount('c1', diffIds);
    writeFileSync(join(rootfs, 'own'), Buffer.alloc(1_000_000, 'y'));
    execFileSync('ln', ['own', 'again'], { cwd: rootfs });
    const [usage, nothing] = await lab.snapshots.usage(['c1', 'unknown']);
    assert.ok(usage && nothing);
    assert.equal(usage.inodesUsed, 2);
    assert.ok(usage.usedBytes >= 1_000_000 && usage.usedBytes < 1_100_000, String(usage.usedBytes));
    assert.deepEqual([nothing.usedBytes, nothing.inodesUsed], [0, 0]);
    const disk = new ImageFilesystems({
      ...lab,
      written: new WritableLayers({ ...lab, clock: systemClock, log: silentLogger }),
    });
    const { images, containers } = await disk.read();
    const [row] = lab.layers.all();
    const mountpoint = execFileSync('findmnt', ['-no', 'TARGET', '-T', lab.root]).toString().trim();
    assert.deepEqual(images, { mountpoint, usedBytes: row?.sizeBytes, inodesUsed: 2 });
    assert.deepEqual(containers, { mountpoint, usedBytes: usage.usedBytes, inodesUsed: usage.inodesUsed });
  });

  it('are refused on a file system that cannot carry them', async () => {
    const base = await mkdtemp(join(tmpdir(), 'berth-snapshot-proc-'));
    const { rootfs } = await lab.snapshots.mount('c1', []);
    // An overlay cannot be the writable layer of another one.
    mkdirSync(join(rootfs, 'root'));
    await assert.rejects(LayerLab.open({ base: rootfs, name: 'root' }), (err: unknown) => {
      assert.match(chain(err), /root\/snapshots cannot carry overlays/);
      return isKind(err, 'precondition');
    });
    assert.deepEqual(readdirSync(join(rootfs, 'root/snapshots')), []);
    await rm(base, { recursive: true });
  });
});
