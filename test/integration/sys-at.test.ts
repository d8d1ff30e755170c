import assert from 'node:assert/strict';
import {
  constants,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

import {
  AT_FDCWD,
  closeFd,
  fchmodat,
  fchownat,
  fstatat,
  linkat,
  mkdirat,
  mknodat,
  O_PATH,
  openat,
  openat2,
  openBeneath,
  pathAt,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  renameat,
  symlinkat,
  unlinkat,
  utimensat,
} from '../../src/sys/at.ts';
import { fgetxattr, flistxattr, fsetxattr, lgetxattrat, llistxattrat, lsetxattrat } from '../../src/sys/xattr.ts';
import { openFdCount } from '../fakes/process-facts.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY, S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT } = constants;

let base: string;
let folder: string;
let dirfd: number;
let fdsBefore: number;

before(() => {
  base = mkdtempSync(join(tmpdir(), 'berth-sys-at-'));
  fdsBefore = openFdCount();
});
beforeEach(() => {
  if (dirfd !== undefined) closeFd(dirfd);
  folder = mkdtempSync(join(base, 'f-'));
  dirfd = openSync(folder, O_RDONLY | O_DIRECTORY);
});
after(() => {
  closeFd(dirfd);
  assert.equal(openFdCount(), fdsBefore, 'a descriptor leaked');
  rmSync(base, { recursive: true });
});

test('openBeneath opens what is inside and nothing outside', () => {
  mkdirSync(join(folder, 'a'));
  writeFileSync(join(folder, 'a/file'), 'inside');
  symlinkSync('a/file', join(folder, 'good'));
  symlinkSync('../../../../etc/passwd', join(folder, 'up'));
  symlinkSync('/etc/passwd', join(folder, 'absolute'));
  const fd = openBeneath(dirfd, 'good', O_RDONLY);
  assert.equal(readFileSync(fd, 'utf8'), 'inside');
  closeFd(fd);
  for (const path of ['up', 'absolute', '/etc/passwd', '../x', 'a/../../x']) {
    assert.throws(() => openBeneath(dirfd, path, O_RDONLY), { errno: 'EXDEV' }, path);
  }
  assert.throws(() => openBeneath(dirfd, 'missing', O_RDONLY), { errno: 'ENOENT', kind: 'notFound' });
});

test('openat2 takes the folder for the root, or refuses links, as asked', () => {
  mkdirSync(join(folder, 'etc'));
  writeFileSync(join(folder, 'etc/passwd'), 'mine');
  symlinkSync('/../../etc/passwd', join(folder, 'link'));
  const fd = openat2(dirfd, 'link', { flags: O_RDONLY, resolve: RESOLVE_IN_ROOT });
  assert.equal(readFileSync(fd, 'utf8'), 'mine');
  closeFd(fd);
  assert.throws(() => openat2(dirfd, 'link', { flags: O_RDONLY, resolve: RESOLVE_NO_SYMLINKS }), { errno: 'ELOOP' });
});

test('files are made with their mode and closed in children', () => {
  const fd = openBeneath(dirfd, 'new', O_WRONLY | O_CREAT | O_EXCL, 0o640);
  writeSync(fd, 'text');
  assert.equal(
    readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')
      .match(/flags:\s+(\d+)/)?.[1]
      ?.slice(-7),
    '2100001',
  );
  closeFd(fd);
  assert.equal(lstatSync(join(folder, 'new')).mode & 0o777, 0o640);
  assert.throws(() => openat(dirfd, 'new', O_WRONLY | O_CREAT | O_EXCL), { kind: 'alreadyExists' });
});

test('names need not be UTF-8', () => {
  const name = Buffer.from([0x66, 0xff, 0xfe]);
  closeFd(openat(dirfd, name, O_CREAT | O_WRONLY, 0o600));
  assert.deepEqual(readdirSync(folder, { encoding: 'buffer' }), [name]);
  symlinkat(Buffer.from([0x80]), dirfd, 'to-bytes');
  assert.deepEqual(readlinkat(dirfd, 'to-bytes'), Buffer.from([0x80]));
  unlinkat(dirfd, new Uint8Array(name));
  assert.equal(fstatatErrno(name), 'ENOENT');
});

test('folders, links, renames and removals', () => {
  mkdirat(dirfd, 'd', 0o755);
  symlinkat('over/there', dirfd, 'link');
  assert.equal(readlinkSync(join(folder, 'link')), 'over/there');
  linkat(dirfd, 'link', dirfd, 'same');
  assert.equal(fstatat(dirfd, 'same').inode, fstatat(dirfd, 'link').inode);
  assert.equal(fstatat(dirfd, 'same').links, 2);
  renameat(dirfd, 'same', dirfd, 'other');
  assert.deepEqual(readdirSync(folder).sort(), ['d', 'link', 'other']);
  assert.throws(() => unlinkat(dirfd, 'd'), { errno: 'EISDIR' });
  unlinkat(dirfd, 'd', { directory: true });
  unlinkat(dirfd, 'other');
  assert.deepEqual(readdirSync(folder), ['link']);
  assert.throws(() => linkat(dirfd, 'gone', dirfd, 'x'), { errno: 'ENOENT' });
  assert.throws(() => renameat(dirfd, 'gone', dirfd, 'x'), { errno: 'ENOENT' });
  assert.throws(() => symlinkat('x', dirfd, 'link'), { errno: 'EEXIST' });
  assert.throws(() => readlinkat(dirfd, 'gone'), { errno: 'ENOENT' });
});

test('devices keep their whole numbers', () => {
  mknodat(dirfd, 'whiteout', S_IFCHR, 0, 0);
  mknodat(dirfd, 'block', S_IFBLK | 0o660, 0xabc, 0xfedcb);
  mknodat(dirfd, 'fifo', S_IFIFO | 0o600);
  const block = fstatat(dirfd, 'block');
  assert.deepEqual([block.rdevMajor, block.rdevMinor, block.mode & S_IFMT], [0xabc, 0xfedcb, S_IFBLK]);
  assert.deepEqual([fstatat(dirfd, 'whiteout').rdevMajor, lstatSync(join(folder, 'whiteout')).rdev], [0, 0]);
  assert.ok(lstatSync(join(folder, 'fifo')).isFIFO());
  assert.throws(() => mknodat(dirfd, 'fifo', S_IFIFO), { errno: 'EEXIST' });
});

test('owner, mode and times, of a link itself and not of its target', () => {
  writeFileSync(join(folder, 'target'), 'x');
  symlinkSync('target', join(folder, 'link'));
  fchownat(dirfd, 'link', 1234, 4_000_000_000);
  utimensat(dirfd, 'link', { seconds: 5, nanoseconds: 6 }, { seconds: -7, nanoseconds: 999_999_999 });
  const link = fstatat(dirfd, 'link');
  assert.deepEqual([link.uid, link.gid], [1234, 4_000_000_000]);
  assert.deepEqual(link.modifiedAt, { seconds: -7, nanoseconds: 999_999_999 });
  assert.equal(lstatSync(join(folder, 'target')).uid, 0);
  fchmodat(dirfd, 'target', 0o6751);
  const target = fstatat(dirfd, 'target');
  assert.equal(target.mode & 0o7777, 0o6751);
  assert.deepEqual([target.size, target.allocatedBytes > 0], [1, true]);
  assert.equal(fstatat(dirfd, '').inode, fstatat(AT_FDCWD, folder).inode);
  assert.throws(() => fchownat(dirfd, 'gone', 0, 0), { errno: 'ENOENT' });
  assert.throws(() => fchmodat(dirfd, 'gone', 0), { errno: 'ENOENT' });
  assert.throws(() => utimensat(dirfd, 'gone', { seconds: 0, nanoseconds: 0 }, { seconds: 0, nanoseconds: 0 }), {
    errno: 'ENOENT',
  });
});

test('extended attributes of files, of links, and large ones', () => {
  const fd = openat(dirfd, 'file', O_CREAT | O_WRONLY, 0o600);
  assert.deepEqual(flistxattr(fd), []);
  assert.equal(fgetxattr(fd, 'user.none'), undefined);
  fsetxattr(fd, 'user.a', Buffer.from('one'));
  fsetxattr(fd, 'trusted.empty', new Uint8Array());
  fsetxattr(fd, 'user.large', Buffer.alloc(3000, 7));
  assert.deepEqual(fgetxattr(fd, 'user.a'), Buffer.from('one'));
  assert.deepEqual(fgetxattr(fd, 'trusted.empty'), Buffer.alloc(0));
  assert.deepEqual(fgetxattr(fd, 'user.large'), Buffer.alloc(3000, 7));
  assert.deepEqual(flistxattr(fd).sort(), ['trusted.empty', 'user.a', 'user.large']);
  closeFd(fd);
  symlinkSync('file', join(folder, 'link'));
  lsetxattrat(dirfd, Buffer.from('link'), 'trusted.own', Buffer.from('link'));
  assert.deepEqual(llistxattrat(dirfd, 'link'), ['trusted.own']);
  assert.deepEqual(lgetxattrat(dirfd, 'link', 'trusted.own'), Buffer.from('link'));
  assert.equal(lgetxattrat(dirfd, 'file', 'trusted.own'), undefined);
  assert.throws(() => lsetxattrat(dirfd, 'link', 'user.no', Buffer.from('x')), { errno: 'EPERM', kind: 'permission' });
  assert.throws(() => lgetxattrat(dirfd, 'gone', 'user.a'), { errno: 'ENOENT' });
  assert.throws(() => fsetxattr(99_999, 'user.a', Buffer.from('x')), { errno: 'EBADF' });
});

test('a name list that does not fit in the small buffer is read whole', () => {
  mkdirSync(join(folder, 'many'));
  const keys = Array.from({ length: 40 }, (_, i) => `trusted.overlay.attribute-number-${i}`).sort();
  for (const key of keys) lsetxattrat(dirfd, 'many', key, Buffer.from('v'));
  assert.deepEqual(llistxattrat(dirfd, 'many').sort(), keys);
});

test('a path handle reaches its file, also by pathAt', () => {
  writeFileSync(join(folder, 'x'), 'content');
  const handle = openat(dirfd, 'x', O_PATH | O_NOFOLLOW);
  assert.equal(fstatat(handle, '').size, 7);
  closeFd(handle);
  closeFd(openat(AT_FDCWD, pathAt(dirfd, 'x'), O_RDONLY));
});

function fstatatErrno(name: Uint8Array): unknown {
  try {
    return fstatat(dirfd, name).mode;
  } catch (err) {
    return err instanceof Error && 'errno' in err ? err.errno : err;
  }
}
