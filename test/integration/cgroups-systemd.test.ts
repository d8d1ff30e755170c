import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { withDeadline } from '../../src/base/deadline.ts';
import { xattrNotes } from '../../src/runtime/cgroups/cgroup-marks.ts';
import { CgroupTree } from '../../src/runtime/cgroups/cgroup-tree.ts';
import type { DbusValue } from '../../src/runtime/cgroups/dbus-codec.ts';
import { SystemdDriver } from '../../src/runtime/cgroups/systemd-driver.ts';
import { SystemdManager } from '../../src/runtime/cgroups/systemd-manager.ts';
import { FakeSystemd } from './fake-systemd.ts';

// The systemd driver on a real dbus-daemon of its own, with an object in systemd's place that writes down what it is
// asked. Needs Debian's package dbus-daemon.

const none = new AbortController().signal;
let folder: string;
let busSocket: string;
let bus: ChildProcess;
let systemd: FakeSystemd;
let manager: SystemdManager;
let driver: SystemdDriver;
let cgroupRoot: string;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-systemd-'));
  busSocket = join(folder, 'bus');
  const config = join(folder, 'bus.conf');
  writeFileSync(
    config,
    `<busconfig><type>session</type><listen>unix:path=${busSocket}</listen><auth>EXTERNAL</auth>
     <policy context="default"><allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/>
     <allow own="*"/></policy></busconfig>`,
  );
  bus = spawn('dbus-daemon', [`--config-file=${config}`, '--nofork', '--print-address=1'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  assert.ok(bus.stdout);
  await once(bus.stdout, 'data');
});

beforeEach(async () => {
  systemd = await FakeSystemd.start(busSocket);
  cgroupRoot = mkdtempSync(join(folder, 'cgroup-'));
  const marks = { set: () => undefined, has: () => false };
  const tree = new CgroupTree([{ version: 2, controllers: [], name: '', mountPoint: cgroupRoot }], marks);
  manager = new SystemdManager(busSocket);
  driver = new SystemdDriver(tree, manager, xattrNotes);
});

afterEach(() => {
  driver.close();
  systemd.close();
});

after(async () => {
  bus.kill('SIGKILL');
  await once(bus, 'exit');
  rmSync(folder, { recursive: true });
});

test('the first process starts the scope in its slice, and the answer waits for the job', async () => {
  const slice = '/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice';
  mkdirSync(join(cgroupRoot, slice), { recursive: true });
  const cgroup = await driver.createSandbox({ parent: 'kubepods-besteffort-pod1.slice', sandboxId: 'abc' }, none);
  assert.deepEqual(cgroup, {
    driver: 'systemd',
    path: `${slice}/berth-abc.scope`,
    unit: 'berth-abc.scope',
  });
  assert.equal(systemd.calls.length, 0, 'a scope without a process cannot live');
  await driver.addProcess(cgroup, process.pid, none);
  assert.deepEqual(
    systemd.calls.map(([member]) => member),
    ['Subscribe', 'StartTransientUnit'],
  );
  const [, [unit, mode, properties]] = systemd.calls[1] as [string, DbusValue[]];
  assert.deepEqual([unit, mode], ['berth-abc.scope', 'fail']);
  assert.deepEqual(Object.fromEntries(properties as [string, { value: DbusValue }][]), {
    Description: { signature: 's', value: 'Berth pod sandbox: pause and monitors' },
    Slice: { signature: 's', value: 'kubepods-besteffort-pod1.slice' },
    PIDs: { signature: 'au', value: [process.pid] },
    Delegate: { signature: 'b', value: true },
    DefaultDependencies: { signature: 'b', value: false },
    CollectMode: { signature: 's', value: 'inactive-or-failed' },
    KillSignal: { signature: 'i', value: 13 },
    TasksMax: { signature: 't', value: 18446744073709551615n },
  });
});

test('a slice that is missing is started first, and goes with the last that was in it', async () => {
  const made = new Set<string>();
  const marks = { set: (folder: string) => void made.add(folder), has: (folder: string) => made.has(folder) };
  const tree = new CgroupTree([{ version: 2, controllers: [], name: '', mountPoint: cgroupRoot }], marks);
  driver = new SystemdDriver(tree, manager, xattrNotes);
  mkdirSync(join(cgroupRoot, 'a.slice'));
  const [slice, parent] = ['/a.slice/a-b.slice/a-b-c.slice', 'a-b-c.slice'];
  const started = systemd.called('StartTransientUnit');
  const creating = driver.createSandbox({ parent, sandboxId: 'one' }, none);
  await started;
  mkdirSync(join(cgroupRoot, slice), { recursive: true });
  const one = await creating;
  const two = await driver.createSandbox({ parent, sandboxId: 'two' }, none);
  const asked = (member: string): DbusValue[] =>
    systemd.calls.flatMap(([name, body]) => (name === member && body[0] !== undefined ? [body[0]] : []));
  assert.deepEqual(asked('StartTransientUnit'), [parent], 'once');
  await driver.removeSandbox(one, none);
  assert.deepEqual(asked('StopUnit'), [one.unit], 'another pod is about to come into the slice');
  await driver.removeSandbox(two, none);
  assert.deepEqual(asked('StopUnit'), [one.unit, two.unit, parent, 'a-b.slice'], 'what was there before stays');
});

test('the limits that a container has are told to systemd', async () => {
  const scope = join(cgroupRoot, 'berth.slice/berth-abc.scope');
  mkdirSync(scope, { recursive: true });
  writeFileSync(join(scope, 'memory.max'), '4096\n');
  writeFileSync(join(scope, 'pids.max'), 'max\n');
  await driver.keepLimits('', 'abc', none);
  const [, properties] = systemd.calls.at(-1) as [string, DbusValue[]];
  assert.deepEqual(properties, [
    'berth-abc.scope',
    true,
    [
      ['MemoryMax', { signature: 't', value: 4096n }],
      ['TasksMax', { signature: 't', value: 18446744073709551615n }],
    ],
  ]);
});

test('a scope that runs takes further processes', async () => {
  const cgroup = driver.sandboxCgroup('', 'abc');
  assert.equal(cgroup.path, '/berth.slice/berth-abc.scope');
  systemd.errors.set('StartTransientUnit', 'org.freedesktop.systemd1.UnitExists');
  await driver.addProcess(cgroup, process.pid, none);
  mkdirSync(join(cgroupRoot, cgroup.path), { recursive: true });
  await driver.addProcess(cgroup, process.pid, none);
  assert.deepEqual(systemd.calls.slice(2), [
    ['AttachProcessesToUnit', ['berth-abc.scope', '', [process.pid]]],
    ['AttachProcessesToUnit', ['berth-abc.scope', '', [process.pid]]],
  ]);
});

test('removing stops an empty scope, and one that systemd has forgotten is gone already', async () => {
  const cgroup = driver.sandboxCgroup('', 'abc');
  await driver.removeSandbox(cgroup, none);
  assert.deepEqual(systemd.calls.slice(1), [
    ['StopUnit', ['berth-abc.scope', 'replace']],
    ['ResetFailedUnit', ['berth-abc.scope']],
  ]);
  systemd.errors.set('StopUnit', 'org.freedesktop.systemd1.NoSuchUnit');
  await driver.removeSandbox(cgroup, none);
});

test('a scope that holds a process is not stopped', async () => {
  const cgroup = driver.sandboxCgroup('', 'abc');
  mkdirSync(join(cgroupRoot, cgroup.path), { recursive: true });
  writeFileSync(join(cgroupRoot, cgroup.path, 'cgroup.procs'), `${process.pid}\n`);
  await assert.rejects(driver.removeSandbox(cgroup, none), new RegExp(`still holds process ${process.pid} `));
  assert.equal(systemd.calls.length, 0);
});

test('a job that fails, a refusal and a systemd that stays silent are errors that name the unit', async () => {
  const cgroup = driver.sandboxCgroup('', 'abc');
  systemd.jobResult = 'failed';
  await assert.rejects(
    manager.startUnit(cgroup.unit, [], none),
    /could not start berth-abc.scope: the job's result is failed/,
  );
  systemd.errors.set('StartTransientUnit', 'org.freedesktop.DBus.Error.AccessDenied');
  await assert.rejects(
    manager.startUnit(cgroup.unit, [], none),
    /StartTransientUnit: no \(org.freedesktop.DBus.Error.AccessDenied\)/,
  );
  systemd.errors.clear();
  systemd.jobResult = '';
  using soon = withDeadline('test', 50);
  await assert.rejects(manager.startUnit(cgroup.unit, [], soon), /test: no answer within 50 ms/);
});

test('calls in flight fail when the bus connection breaks, and the next call connects again', async () => {
  systemd.jobResult = '';
  const started = manager.startUnit('berth-abc.scope', [], none);
  await systemd.called('StartTransientUnit');
  manager.close();
  await assert.rejects(started, /connection to D-Bus was closed/);
  systemd.jobResult = 'done';
  await manager.startUnit('berth-abc.scope', [], none);
});

test('no bus at all is unavailable', async () => {
  const lost = new SystemdManager(join(folder, 'nothing'));
  await assert.rejects(lost.stopUnit('a.scope', none), /connect to D-Bus at .*nothing/);
});

test('containers are scopes beside it, by the name that the OCI runtimes take', () => {
  assert.equal(driver.containerCgroupsPath('a-b.slice', 'c1'), 'a-b.slice:berth:c1');
  assert.equal(driver.container('a-b.slice', 'c1').path, '/a.slice/a-b.slice/berth-c1.scope');
  assert.throws(() => driver.validateParent('/kubepods/pod1'), /linux.cgroup_parent: .* must end with .slice/);
});
