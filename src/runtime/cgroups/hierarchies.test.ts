import assert from 'node:assert/strict';
import { test } from 'node:test';

import { cgroupFile, cgroupOf, modeOf, parseHierarchies } from './hierarchies.ts';

const HYBRID = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;
const V2 = '30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n';

test('a hybrid host has its v1 controllers, the named hierarchy and cgroup2', () => {
  const found = parseHierarchies(HYBRID);
  assert.deepEqual(found, [
    { version: 1, controllers: ['cpu'], name: '', mountPoint: '/sys/fs/cgroup/cpu' },
    { version: 1, controllers: ['memory'], name: '', mountPoint: '/sys/fs/cgroup/memory' },
    { version: 1, controllers: [], name: 'systemd', mountPoint: '/sys/fs/cgroup/systemd' },
    { version: 2, controllers: [], name: '', mountPoint: '/sys/fs/cgroup/unified' },
  ]);
  assert.equal(modeOf(found), 'hybrid');
});

test('a v2 host has one hierarchy', () => {
  const found = parseHierarchies(V2);
  assert.deepEqual(found, [{ version: 2, controllers: [], name: '', mountPoint: '/sys/fs/cgroup' }]);
  assert.equal(modeOf(found), 'v2');
});

test('controllers that are mounted together are one hierarchy, with the options of systemd left out', () => {
  const line =
    '33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n' +
    '40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd\n';
  const found = parseHierarchies(line);
  assert.deepEqual(
    found.map(({ controllers, name }) => [controllers, name]),
    [
      [['cpu', 'cpuacct'], ''],
      [[], 'systemd'],
    ],
  );
  assert.equal(modeOf(found), 'v1');
});

test('of several mounts of one hierarchy the whole one below /sys/fs/cgroup counts', () => {
  const lines =
    '50 31 0:32 / /srv/chroot/cgroup/memory rw - cgroup cgroup rw,memory\n' +
    '51 31 0:32 /docker/1 /sys/fs/cgroup/part rw - cgroup cgroup rw,memory\n' +
    '52 31 0:32 / /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n';
  assert.deepEqual(
    parseHierarchies(lines).map((found) => found.mountPoint),
    ['/sys/fs/cgroup/mem ory'],
  );
});

test('finds a process in each kind of hierarchy', () => {
  const [cpu, memory, systemd, unified] = parseHierarchies(HYBRID);
  assert.ok(cpu && memory && systemd && unified);
  const text = '9:name=systemd:/s\n4:memory:/process_api/x:y\n2:cpu,cpuacct:/both\n0::/u\n';
  assert.equal(cgroupOf(text, cpu), '/both');
  assert.equal(cgroupOf(text, memory), '/process_api/x:y');
  assert.equal(cgroupOf(text, systemd), '/s');
  assert.equal(cgroupOf(text, unified), '/u');
  assert.equal(cgroupOf('0::/u\n', cpu), undefined);
  assert.equal(cgroupFile(memory, '/a/b', 'memory.stat'), '/sys/fs/cgroup/memory/a/b/memory.stat');
});
