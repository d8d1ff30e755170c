/** berthd as a service of the systemd that runs the machine, and systemd's cgroups: nothing here is a stand-in. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  CgroupDriver,
  RuntimeConfigRequest,
  RuntimeServiceService as runtime,
  UpdatePodSandboxResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { BerthdUnit, hasSystemd, systemctl } from '../harness/berthd-unit.ts';
import { CriLab, eventually } from '../harness/cri-lab.ts';

const IMAGE = 'example.com/busybox:test';
const IS_V2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
const MIB = 2n ** 20n;
/** systemd restarts a service that was killed after two seconds, and then it has to start. */
const BACK_TIMEOUT_MS = 60_000;
const SLICE = 'berthtest-burstable-pod12345678_1234.slice';
const SLICE_PATH = `/berthtest.slice/berthtest-burstable.slice/${SLICE}`;

suite('berthd as a service of systemd', { skip: hasSystemd() ? false : 'systemd does not run this machine' }, () => {
  let berthd: TestBerthd;
  let unit: BerthdUnit;
  let lab: CriLab;
  let pod: string;
  let container: string;

  before(async () => {
    berthd = new TestBerthd({ config: '[runtime]\ncgroup_manager = "auto"\ndefault_runtime = "runc"' });
    unit = new BerthdUnit(berthd, ['WatchdogSec=9', 'TimeoutAbortSec=2']);
    unit.do('start');
    await berthd.connect();
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    await buildBusyboxLayout(layout, { tag: IMAGE });
    await berthd.call(AdminService.loadImage, { path: layout, name: '' });
    rmSync(layout, { recursive: true });
    const logs = join(berthd.root, 'logs');
    lab = new CriLab(berthd, { image: IMAGE, logs, cgroupParent: SLICE_PATH, namespace: 'test' });
    pod = await lab.runPod(lab.podConfig({ linux: { cgroupParent: SLICE, resources: { cpuShares: 512n } } }));
    container = await lab.start(pod, { linux: { resources: { memoryLimitInBytes: 64n * MIB, cpuShares: 256n } } });
  });

  after(async () => {
    unit[Symbol.dispose]();
    await berthd[Symbol.asyncDispose]();
  });

  /** What must not change, whatever happens to berthd. */
  async function pids(): Promise<{ pause: number; container: number }> {
    return { pause: (await lab.podInfo(pod)).pid, container: (await lab.info(container)).pid };
  }

  async function isBack(previous: number): Promise<void> {
    await eventually(
      'systemd starts berthd again',
      () => (unit.pid !== previous && unit.show('ActiveState') === 'active') || undefined,
      BACK_TIMEOUT_MS,
    );
    await berthd.connect();
  }

  async function assertPodGoesOn(before: { pause: number; container: number }): Promise<void> {
    assert.deepEqual(await pids(), before);
    assert.equal(await lab.exec(container, 'echo', 'here'), 'here');
  }

  test('it is ready when its start is over, says what it does, and its lines are in the journal by their weight', () => {
    assert.equal(unit.show('ActiveState'), 'active');
    assert.match(unit.show('StatusText'), /^serves on unix:\/\/.*; pods: \d ready, containers: \d running$/);
    const serves = unit.journal().find(({ MESSAGE }) => MESSAGE?.startsWith('berthd serves '));
    assert.equal(serves?.['PRIORITY'], '6');
    assert.equal(serves?.['SYSLOG_IDENTIFIER'], 'berthd');
    assert.ok(
      unit.journal().some(({ PRIORITY }) => PRIORITY === '7'),
      'debug lines too',
    );
  });

  test('it has the node’s own mounts, and nobody else may come near its folders', () => {
    assert.equal(
      readFileSync(`/proc/${unit.pid}/mountinfo`, 'utf8').split('\n')[0],
      readFileSync('/proc/1/mountinfo', 'utf8').split('\n')[0],
    );
    const folder = unit.name.replace('.service', '-folder');
    for (const path of [`/run/${folder}`, `/var/lib/${folder}`]) assert.equal(statSync(path).mode & 0o777, 0o711);
    assert.equal(statSync(berthd.endpoint.replace('unix://', '')).mode & 0o777, 0o660);
  });

  test('pods are scopes in the slices that a kubelet names, with limits that systemd knows', async () => {
    const { linux } = await berthd.call(runtime.runtimeConfig, RuntimeConfigRequest.create());
    assert.equal(linux?.cgroupDriver, CgroupDriver.SYSTEMD);
    const cgroups = (pid: number): string => readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    const { pause, container: init } = await pids();
    assert.ok(cgroups(pause).includes(`:${SLICE_PATH}/berth-${pod}.scope\n`), cgroups(pause));
    assert.ok(cgroups(init).includes(`:${SLICE_PATH}/berth-${container}.scope\n`), cgroups(init));
    assert.equal(systemctl('show', '--value', '--property=Slice', `berth-${container}.scope`), SLICE);
    if (!IS_V2) return;
    assert.equal(systemctl('show', '--value', '--property=MemoryMax', `berth-${container}.scope`), String(64n * MIB));
    assert.equal(systemctl('show', '--value', '--property=CPUWeight', SLICE), '20');
  });

  test('limits of a pod outlive a reload of systemd', { skip: IS_V2 ? false : 'cgroup v1' }, async () => {
    const resources = {
      memoryLimitInBytes: 128n * MIB,
      unified: { 'memory.high': String(96n * MIB), 'pids.max': '99' },
    };
    await berthd.call(
      runtime.updatePodSandboxResources,
      UpdatePodSandboxResourcesRequest.create({ podSandboxId: pod, resources }),
    );
    systemctl('daemon-reload');
    const limit = (file: string): string => readFileSync(`/sys/fs/cgroup${SLICE_PATH}/${file}`, 'utf8').trim();
    assert.deepEqual(['memory.max', 'memory.high', 'pids.max'].map(limit), [
      String(128n * MIB),
      String(96n * MIB),
      '99',
    ]);
    assert.equal(systemctl('show', '--value', '--property=MemoryHigh', SLICE), String(96n * MIB));
  });

  test('systemctl restart leaves pods alone', async () => {
    const [before, previous] = [await pids(), unit.pid];
    unit.do('restart');
    await berthd.connect();
    assert.notEqual(unit.pid, previous);
    await assertPodGoesOn(before);
    assert.match(unit.show('StatusText'), /pods: 1 ready, containers: 1 running$/);
  });

  test('a kill -9 brings it back, and leaves pods alone', async () => {
    const [before, previous] = [await pids(), unit.pid];
    process.kill(previous, 'SIGKILL');
    await isBack(previous);
    await assertPodGoesOn(before);
  });

  test('a reload is told as one', async () => {
    unit.do('reload');
    await eventually(
      'the journal tells of the reload',
      () => unit.journal().some(({ MESSAGE }) => MESSAGE?.startsWith('configuration reloaded')) || undefined,
    );
    assert.equal(unit.show('ActiveState'), 'active');
  });

  test('the watchdog ends one whose event loop stands still, and pods go on', async () => {
    const [before, previous] = [await pids(), unit.pid];
    process.kill(previous, 'SIGSTOP');
    await isBack(previous);
    await assertPodGoesOn(before);
    assert.ok(unit.journal('UNIT').some(({ MESSAGE }) => MESSAGE?.includes('Watchdog timeout')));
  });

  test('a stop leaves pods alone; removed pods leave neither scope nor slice', async () => {
    const before = await pids();
    unit.do('stop');
    for (const pid of Object.values(before)) process.kill(pid, 0);
    unit.do('start');
    await berthd.connect();
    await assertPodGoesOn(before);
    await lab.removePod(pod);
    assert.equal(systemctl('list-units', '--all', '--no-legend', '--plain', 'berthtest*', `berth-${pod}*`), '');
  });
});
