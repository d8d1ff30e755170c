import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import {
  bindMapped,
  bindMount,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  mount,
  mountAside,
  openReadonlyView,
  readMounts,
  remountReadonly,
  setPropagation,
  unmount,
  unmountAside,
} from '../../src/sys/mount.ts';
import type { MountInfo } from '../../src/sys/mount-info.ts';
import { OVERLAYFS_MAGIC, statfs, TMPFS_MAGIC } from '../../src/sys/statfs.ts';
import { syncfs } from '../../src/sys/sync.ts';

let base: string;

before(() => {
  base = mkdtempSync(join(tmpdir(), 'berth-sys-mount-'));
});
afterEach(() => {
  for (const { mountPoint } of mountsBelow().reverse()) unmount(mountPoint);
});
after(() => {
  assert.deepEqual(mountsBelow(), [], 'a mount is left');
  rmSync(base, { recursive: true });
});

test('a tmpfs is mounted with its flags, seen, and taken away', () => {
  const target = folder('tmpfs with space');
  mount({ source: 'none', target, type: 'tmpfs', flags: MS_NOSUID | MS_NODEV, data: 'size=64k,mode=0711' });
  const found = mountsBelow().find((m) => m.mountPoint === target);
  assert.equal(found?.type, 'tmpfs');
  assert.ok(found?.options.includes('nosuid') && found.options.includes('nodev'));
  const facts = statfs(target);
  assert.deepEqual([facts.type, facts.totalBytes], [TMPFS_MAGIC, 65_536]);
  writeFileSync(join(target, 'x'), Buffer.alloc(8192));
  assert.ok(statfs(target).freeBytes <= 65_536 - 8192);
  assert.ok(statfs(target).freeInodes > 0);
  unmount(target);
  assert.equal(mountsBelow().length, 0);
  unmount(target);
  unmount(join(base, 'never was'));
});

test('a mount that the kernel refuses says what and why', () => {
  const target = folder('refused');
  assert.throws(() => mount({ source: 'none', target, type: 'nosuchfs' }), {
    errno: 'ENODEV',
    message: `mount nosuchfs on ${target}: no such device (ENODEV)`,
  });
  assert.throws(() => mount({ source: 'none', target: join(base, 'gone'), type: 'tmpfs' }), { kind: 'notFound' });
  const data = `size=1m,${'x'.repeat(4096)}`;
  assert.throws(() => mount({ source: 'none', target, type: 'tmpfs', data }), { kind: 'invalid' });
});

test('mounts of the pool come side by side, each with its own answer', async () => {
  const targets = Array.from({ length: 24 }, (_, index) => folder(`aside-${index}`));
  const wishes = targets.map(async (target, index) => {
    // Every third one fails, by another errno than the next.
    if (index % 3 === 0) await mountAside({ source: 'none', target, type: 'nosuchfs' });
    else if (index % 3 === 1) await mountAside({ source: 'none', target: join(target, 'gone'), type: 'tmpfs' });
    else await mountAside({ source: 'none', target, type: 'tmpfs', flags: MS_NOSUID, data: 'size=64k' });
  });
  const answers = (await Promise.allSettled(wishes)).map((answer) =>
    answer.status === 'rejected' ? String((answer.reason as { errno?: unknown }).errno) : 'mounted',
  );
  assert.deepEqual(
    answers,
    targets.map((_, index) => ['ENODEV', 'ENOENT', 'mounted'][index % 3]),
  );
  const mounted = targets.filter((_, index) => index % 3 === 2);
  assert.deepEqual(new Set(mountsBelow().map(({ mountPoint }) => mountPoint)), new Set(mounted));
  assert.ok(mountsBelow().every(({ options }) => options.includes('nosuid')));
  // What is not mounted, and what is not there, is success.
  await Promise.all(
    [...targets, ...mounted, join(base, 'never was')].map(async (target) => await unmountAside(target)),
  );
  assert.deepEqual(mountsBelow(), []);
  const file = join(base, 'aside-0', 'file');
  writeFileSync(file, '');
  await assert.rejects(unmountAside(join(file, 'below')), { errno: 'ENOTDIR', call: 'umount2' });
  await assert.rejects(unmountAside('with\0in it'), { kind: 'invalid' });
  const data = 'x'.repeat(4096);
  await assert.rejects(mountAside({ source: 'none', target: file, type: 'tmpfs', data }), { kind: 'invalid' });
});

test('overlayfs, as snapshots use it', () => {
  for (const name of ['lower', 'upper', 'work', 'merged']) folder(name);
  writeFileSync(join(base, 'lower/file'), 'below');
  const data = `lowerdir=${join(base, 'lower')},upperdir=${join(base, 'upper')},workdir=${join(base, 'work')}`;
  const target = join(base, 'merged');
  mount({ source: 'overlay', target, type: 'overlay', data });
  assert.equal(statfs(target).type, OVERLAYFS_MAGIC);
  assert.equal(readFileSync(join(target, 'file'), 'utf8'), 'below');
  writeFileSync(join(target, 'new'), 'x');
  assert.ok(existsSync(join(base, 'upper/new')));
  const fd = openSync(target, 'r');
  syncfs(fd);
  closeSync(fd);
  assert.throws(() => syncfs(99_999), { errno: 'EBADF' });
});

test('a bind mount shows its source; read-only keeps the other flags', () => {
  const source = folder('source');
  const target = folder('target');
  mount({ source: 'none', target: source, type: 'tmpfs', flags: MS_NOSUID | MS_NOEXEC });
  writeFileSync(join(source, 'x'), 'seen');
  bindMount(source, target);
  assert.equal(readFileSync(join(target, 'x'), 'utf8'), 'seen');
  writeFileSync(join(target, 'y'), '');
  remountReadonly(target);
  assert.throws(() => writeFileSync(join(target, 'z'), ''), { code: 'EROFS' });
  writeFileSync(join(source, 'z'), '');
  const options = mountsBelow().find((m) => m.mountPoint === target)?.options ?? [];
  for (const option of ['ro', 'nosuid', 'noexec', 'relatime']) assert.ok(options.includes(option), option);
});

test('a read-only view of a file can be neither written to nor leased by who gets hold of it', () => {
  const file = join(base, 'program');
  writeFileSync(file, 'as it was');
  // fcntl(2): F_SETLEASE with F_WRLCK is for the only one who has a file open.
  const lease = (path: string): string => {
    const script = 'open(my $f, "<", $ARGV[0]) or exit 9; print fcntl($f, 1024, 1) ? "leased" : "refused"';
    return spawnSync('perl', ['-e', script, path], { encoding: 'utf8' }).stdout;
  };
  assert.equal(lease(file), 'leased');
  const view = openReadonlyView(file);
  try {
    const path = `/proc/${process.pid}/fd/${view}`;
    assert.equal(readFileSync(path, 'utf8'), 'as it was');
    assert.throws(() => openSync(path, 'r+'), { code: 'EROFS' });
    assert.equal(lease(path), 'refused');
    assert.deepEqual(mountsBelow(), []);
  } finally {
    closeSync(view);
  }
});

test('recursive binds take what is mounted below along, read-only all the way down', () => {
  const source = folder('tree');
  mount({ source: 'none', target: source, type: 'tmpfs' });
  mkdirSync(join(source, 'sub'));
  mount({ source: 'none', target: join(source, 'sub'), type: 'tmpfs' });
  writeFileSync(join(source, 'sub/x'), '');
  const [plain, deep, flat] = [folder('plain'), folder('deep'), folder('flat')];
  bindMount(source, plain);
  assert.equal(existsSync(join(plain, 'sub/x')), false);
  bindMount(source, deep, { recursive: true, readonly: true });
  assert.equal(existsSync(join(deep, 'sub/x')), true);
  assert.throws(() => writeFileSync(join(deep, 'sub/y'), ''), { code: 'EROFS' });
  bindMount(source, flat, { readonly: true });
  assert.throws(() => writeFileSync(join(flat, 'y'), ''), { code: 'EROFS' });
  writeFileSync(join(source, 'sub/y'), '');
});

test('a tree under other ids goes without taking along what is mounted in the original, which stays shared', async (t) => {
  const [source, target] = [folder('shared'), folder('mapped')];
  mount({ source: 'none', target: source, type: 'tmpfs' });
  setPropagation(source, 'shared');
  const below = folder('shared/below');
  mount({ source: 'none', target: below, type: 'tmpfs' });
  writeFileSync(join(below, 'kept'), '');
  const holder = spawn('unshare', ['--user', '--', 'sh', '-c', 'echo; exec sleep 1000'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.after(() => holder.kill('SIGKILL'));
  await once(holder.stdout, 'data');
  for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${holder.pid}/${map}`, '0 100000 65536\n');
  bindMapped(source, target, `/proc/${holder.pid}/ns/user`, { recursive: true });
  assert.ok(existsSync(join(target, 'below/kept')));
  mount({ source: 'none', target: folder('shared/later'), type: 'tmpfs' });
  const isMounted = (path: string): boolean => mountsBelow().some(({ mountPoint }) => mountPoint === path);
  assert.ok(isMounted(join(target, 'later')), 'what comes later is seen');
  unmount(target);
  assert.ok(existsSync(join(below, 'kept')), 'the original has lost what was mounted in it');
  assert.ok(isMounted(below) && isMounted(join(source, 'later')));
});

test('a failed bind leaves nothing', () => {
  assert.throws(() => bindMount(join(base, 'missing'), folder('t'), { readonly: true }), { kind: 'notFound' });
  assert.equal(mountsBelow().length, 0);
});

test('propagation changes are seen in mountinfo', () => {
  const target = folder('propagation');
  mount({ source: 'none', target, type: 'tmpfs' });
  const propagation = (): string => mountsBelow()[0]?.propagation.join() ?? '';
  setPropagation(target, 'shared');
  assert.match(propagation(), /^shared:\d+$/);
  setPropagation(target, 'rprivate');
  assert.equal(propagation(), '');
  assert.throws(() => setPropagation(folder('no mount'), 'private'), { errno: 'EINVAL' });
});

test('unmount does not follow a link, and takes one of a stack at a time', () => {
  const target = folder('stack');
  symlinkSync(target, join(base, 'link'));
  mount({ source: 'none', target, type: 'tmpfs' });
  mount({ source: 'none', target, type: 'tmpfs' });
  unmount(join(base, 'link'));
  assert.equal(mountsBelow().length, 2);
  const busy = openSync(target, 'r');
  unmount(target);
  assert.equal(mountsBelow().length, 1);
  closeSync(busy);
});

function folder(name: string): string {
  const path = join(base, name);
  mkdirSync(path, { recursive: true });
  return path;
}

function mountsBelow(): MountInfo[] {
  return readMounts().filter((m) => m.mountPoint.startsWith(`${base}/`));
}
