import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { isKind } from '../../base/errors.ts';
import { CgroupTree } from './cgroup-tree.ts';
import { ContainerCgroupFiles } from './container-cgroup.ts';

for (const [version, file, limited, lifted] of [
  [1, 'cpu.cfs_quota_us', '150000', '-1'],
  [2, 'cpu.max', '150000 100000', 'max'],
] as const) {
  test(`a quota of processor time is lifted (v${version})`, (t) => {
    const mountPoint = mkdtempSync(join(tmpdir(), 'berth-cgroup-'));
    t.after(() => rmSync(mountPoint, { recursive: true }));
    mkdirSync(join(mountPoint, 'pod'));
    writeFileSync(join(mountPoint, 'pod', file), limited);
    const marks = { set: () => undefined, has: () => false };
    const controllers = version === 1 ? ['cpu'] : [];
    const tree = new CgroupTree([{ version, controllers, name: '', mountPoint }], marks);
    new ContainerCgroupFiles(tree, '/pod').liftCpuQuota();
    assert.equal(readFileSync(join(mountPoint, 'pod', file), 'utf8'), lifted);
  });
}

test('who takes no signal is told with its profile and what to do', (t) => {
  const mountPoint = mkdtempSync(join(tmpdir(), 'berth-cgroup-'));
  t.after(() => rmSync(mountPoint, { recursive: true }));
  mkdirSync(join(mountPoint, 'pod'));
  writeFileSync(join(mountPoint, 'pod', 'cgroup.procs'), `${process.pid}\n`);
  const marks = { set: () => undefined, has: () => false };
  const tree = new CgroupTree([{ version: 1, controllers: ['memory'], name: '', mountPoint }], marks);
  const cgroup = new ContainerCgroupFiles(tree, '/pod');
  const refuse = (code: string): void => {
    t.mock.method(process, 'kill', () => {
      throw Object.assign(new Error(`kill ${code}`), { code });
    });
  };
  refuse('EACCES');
  assert.throws(
    () => cgroup.killAll(),
    (err) => isKind(err, 'permission') && new RegExp(`process ${process.pid}.*signal \\(receive\\)`).test(String(err)),
  );
  refuse('ESRCH');
  cgroup.killAll();
});
