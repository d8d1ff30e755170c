import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import fc from 'fast-check';

import { BerthError, describe } from '../base/errors.ts';
import { listUser, parseGroup, parsePasswd, resolveUser, type UserRequest } from './users.ts';

const PASSWD = `root:x:0:0:root:/root:/bin/sh
# a comment
web:x:33:33:web:/var/www:/usr/sbin/nologin
broken
app:x:1000:1001::/home/app:
:x:5:5::/:
`;
const GROUP = `root:x:0:
web:x:33:
app:x:1001:
logs:x:50:web,app
docker:x:999:app
bad:x:many:app
`;

let rootfs: string;
beforeEach(() => {
  rootfs = mkdtempSync(join(tmpdir(), 'berth-users-'));
  mkdirSync(join(rootfs, 'etc'));
  writeFileSync(join(rootfs, 'etc/passwd'), PASSWD);
  writeFileSync(join(rootfs, 'etc/group'), GROUP);
});
afterEach(() => rmSync(rootfs, { recursive: true }));

function resolve(imageUser: string, security: Partial<UserRequest['security']> = {}) {
  const nothing: UserRequest['security'] = {
    runAsUser: undefined,
    runAsGroup: undefined,
    runAsUsername: '',
    supplementalGroups: [],
    supplementalGroupsPolicy: 'merge',
  };
  const { unlisted: _unlisted, ...user } = resolveUser({ rootfs, imageUser, security: { ...nothing, ...security } });
  return user;
}

function list(imageUser: string): [string, string] {
  const security = {
    runAsUser: undefined,
    runAsGroup: undefined,
    runAsUsername: '',
    supplementalGroups: [],
    supplementalGroupsPolicy: 'merge',
  } as const;
  listUser(rootfs, resolveUser({ rootfs, imageUser, security }));
  const read = (name: string): string =>
    existsSync(join(rootfs, 'etc', name)) ? readFileSync(join(rootfs, 'etc', name), 'utf8') : 'none';
  return [read('passwd'), read('group')];
}

const refused = (text: RegExp) => (err: unknown) =>
  err instanceof BerthError && err.kind === 'invalid' && text.test(err.message);

test('the user of the image, by name or number, with its group, memberships and home', () => {
  assert.deepEqual(resolve(''), { uid: 0, gid: 0, supplementalGroups: [0], home: '/root' });
  const app = { uid: 1000, gid: 1001, supplementalGroups: [1001, 50, 999], home: '/home/app' };
  assert.deepEqual(resolve('app'), app);
  assert.deepEqual(resolve('1000'), app);
  assert.deepEqual(resolve('app:docker'), { ...app, gid: 999, supplementalGroups: [999, 50] });
  assert.deepEqual(resolve('app:7'), { ...app, gid: 7, supplementalGroups: [7, 50, 999] });
  assert.deepEqual(resolve(':50'), { uid: 0, gid: 50, supplementalGroups: [50], home: '/root' });
  assert.deepEqual(resolve('4711'), { uid: 4711, gid: 0, supplementalGroups: [0] }, 'a number needs no entry');
});

test('the client wins over the image, its number over its name', () => {
  assert.equal(resolve('app', { runAsUser: 33 }).uid, 33);
  assert.equal(resolve('app:docker', { runAsUser: 33 }).gid, 33, 'the group of the image goes with its user');
  assert.equal(resolve('app', { runAsUsername: 'web' }).uid, 33);
  assert.equal(resolve('app', { runAsUser: 0, runAsUsername: 'web' }).uid, 0);
  assert.deepEqual(resolve('app', { runAsUser: 33, runAsGroup: 8 }).supplementalGroups, [8, 50]);
  assert.equal(resolve('', { runAsUser: 9999, runAsGroup: 9998 }).gid, 9998);
});

test('supplemental groups are merged with those of the image, or strictly the given ones', () => {
  const supplementalGroups = [2000, 50];
  assert.deepEqual(resolve('app', { supplementalGroups }).supplementalGroups, [1001, 50, 999, 2000]);
  assert.deepEqual(
    resolve('app', { supplementalGroups, supplementalGroupsPolicy: 'strict' }).supplementalGroups,
    [1001, 2000, 50],
  );
});

test('what the image does not have is refused by field', () => {
  assert.throws(() => resolve('nobody'), refused(/^USER of the image: the image has no user "nobody"/));
  assert.throws(() => resolve('app:nogroup'), refused(/^USER of the image: the image has no group "nogroup"/));
  assert.throws(() => resolve('', { runAsUsername: 'nobody' }), refused(/\.run_as_username: the image has no user/));
  assert.throws(() => resolve('', { runAsUsername: 'constructor' }), refused(/run_as_username/));
  assert.throws(
    () => resolve('app', { runAsGroup: 5 }),
    refused(/\.run_as_group: needs run_as_user or run_as_username/),
  );
  assert.throws(() => resolve('', { runAsUser: -1 }), refused(/\.run_as_user: -1 is not an id/));
  assert.throws(() => resolve('', { runAsUser: 0xffffffff }), refused(/\.run_as_user/));
  assert.throws(() => resolve('99999999999'), refused(/no user/));
  assert.throws(() => resolve('', { supplementalGroups: [-5] }), refused(/\.supplemental_groups: -5/));
});

test('an image without the files still has numbers', () => {
  rmSync(join(rootfs, 'etc'), { recursive: true });
  assert.deepEqual(resolve('12:34'), { uid: 12, gid: 34, supplementalGroups: [34] });
  assert.throws(() => resolve('root'), refused(/no user "root"/));
});

test('links in the image stay in the image', () => {
  rmSync(join(rootfs, 'etc/passwd'));
  symlinkSync('/etc/real', join(rootfs, 'etc/passwd'));
  writeFileSync(join(rootfs, 'etc/real'), 'inside:x:77:77::/in:\n');
  assert.equal(resolve('inside').uid, 77);
  rmSync(join(rootfs, 'etc/real'));
  symlinkSync('../../../../../../../../etc/passwd', join(rootfs, 'etc/real'));
  assert.throws(
    () => resolve('root'),
    (err: unknown) => /ELOOP/.test(describe(err)),
    'a loop within the root',
  );
});

test('only files of sane size are read', () => {
  rmSync(join(rootfs, 'etc/passwd'));
  mkdirSync(join(rootfs, 'etc/passwd'));
  assert.throws(
    () => resolve('app'),
    (err: unknown) => /etc\/passwd is not a file/.test(describe(err)),
  );
  rmSync(join(rootfs, 'etc/passwd'), { recursive: true });
  writeFileSync(join(rootfs, 'etc/passwd'), 'x'.repeat(600_000));
  assert.throws(
    () => resolve('app'),
    (err: unknown) => /more than 524288 bytes/.test(describe(err)),
  );
});

test('any text parses to well-formed entries', () => {
  const id = (value: number) => Number.isInteger(value) && value >= 0 && value <= 0xffff_fffe;
  const hostile = fc.string({ unit: fc.constantFrom('a', ':', '\n', '0', '9', ',', '#', '\0', '-', ' ') });
  fc.assert(
    fc.property(hostile, (text) => {
      for (const entry of parsePasswd(text)) assert.ok(entry.name !== '' && id(entry.uid) && id(entry.gid));
      for (const entry of parseGroup(text))
        assert.ok(entry.name !== '' && id(entry.gid) && !entry.members.includes(''));
    }),
  );
});

test('what was written is read back', () => {
  const word = fc.stringMatching(/^[a-z_][a-z0-9_-]{0,8}$/);
  const id = fc.nat(0xffff_fffe);
  fc.assert(
    fc.property(
      fc.array(fc.record({ name: word, uid: id, gid: id, home: fc.constant('/h') }, { noNullPrototype: true })),
      (entries) => {
        const text = entries.map(({ name, uid, gid, home }) => `${name}:x:${uid}:${gid}:c:${home}:/sh`).join('\n');
        assert.deepEqual([...parsePasswd(text)], entries);
      },
    ),
  );
});

test('a user and a group that the image does not know get a line, and nobody else', () => {
  assert.deepEqual(list('4711:4712'), [`${PASSWD}4711:x:4711:4712::/:/sbin/nologin\n`, `${GROUP}4712:x:4712:\n`]);
  const twice = list('4711:4712');
  assert.deepEqual(list('4711:4712'), twice, 'once');
  assert.deepEqual(list('app'), twice);
  assert.deepEqual(list(':50'), twice);
});

test('a last line without its end keeps to itself, and a link of the image is followed inside', () => {
  rmSync(join(rootfs, 'etc/passwd'));
  mkdirSync(join(rootfs, 'usr'));
  writeFileSync(join(rootfs, 'usr/passwd'), 'root:x:0:0::/:');
  symlinkSync('/usr/passwd', join(rootfs, 'etc/passwd'));
  rmSync(join(rootfs, 'etc/group'));
  list('5');
  assert.equal(readFileSync(join(rootfs, 'usr/passwd'), 'utf8'), 'root:x:0:0::/:\n5:x:5:0::/:/sbin/nologin\n');
  assert.ok(!existsSync(join(rootfs, 'etc/group')), 'an image without the file stays without');
});
