import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, suite, type TestContext, test } from 'node:test';

import { unmount } from './folder-mounts.ts';
import { kubeletMinor } from './kubelet.ts';
import { container, KubeletLab } from './kubelet-lab.ts';

suite('what newer kubelets ask for', () => {
  let lab: KubeletLab;
  let minor: number;
  let shared: string;
  const volumes = (): object[] => [{ name: 'shared', hostPath: { path: shared, type: 'Directory' } }];
  const isTooOld = (context: TestContext, needed: number): boolean => {
    if (minor < needed) context.skip(`needs kubelet 1.${needed}`);
    return minor < needed;
  };

  before(async () => {
    minor = await kubeletMinor();
    const gates = { ContainerStopSignals: 33, CRIListStreaming: 36 };
    const known = Object.entries(gates).filter(([, since]) => minor >= since);
    lab = await KubeletLab.start({ features: Object.fromEntries(known.map(([name]) => [name, true])) });
    shared = join(lab.berthd.root, 'shared');
    mkdirSync(shared);
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('a stop signal of the container (1.33)', async (context) => {
    if (isTooOld(context, 33)) return;
    const command = ['sh', '-c', "trap 'echo USR1 > /shared/signal; exit 0' USR1; while :; do sleep 1000 & wait; done"];
    const fields = {
      command,
      lifecycle: { stopSignal: 'SIGUSR1' },
      volumeMounts: [{ name: 'shared', mountPath: '/shared' }],
    };
    lab.run('signalled', [fields], { os: { name: 'linux' }, volumes: volumes(), terminationGracePeriodSeconds: 10 });
    await lab.ready('signalled');
    await lab.remove('signalled');
    assert.equal(readFileSync(join(shared, 'signal'), 'utf8'), 'USR1\n');
  });

  test('rules for the restart of one container (1.35)', async (context) => {
    if (isTooOld(context, 35)) return;
    const rules = {
      restartPolicy: 'Never',
      restartPolicyRules: [{ action: 'Restart', exitCodes: { operator: 'In', values: [42] } }],
    };
    const command = ['sh', '-c', 'echo x >> /shared/ruled; [ $(wc -l < /shared/ruled) -ge 2 ] && exit 7; exit 42'];
    const volumeMounts = [{ name: 'shared', mountPath: '/shared' }];
    lab.run('ruled', [{ command, volumeMounts, ...rules }], { volumes: volumes(), restartPolicy: 'Never' });
    const pod = await lab.pod('ruled', 'to have failed', ({ status }) => status.phase === 'Failed');
    assert.equal(container(pod)?.restartCount, 1);
    assert.equal(container(pod)?.state.terminated?.exitCode, 7);
    lab.drop('ruled');
  });

  test('one container restarts all of the pod (1.36)', async (context) => {
    if (isTooOld(context, 36)) return;
    const rules = [{ action: 'RestartAllContainers', exitCodes: { operator: 'In', values: [42] } }];
    const command = [
      'sh',
      '-c',
      'echo x >> /shared/all; [ $(wc -l < /shared/all) -ge 2 ] && exec sleep 1000; sleep 2; exit 42',
    ];
    const volumeMounts = [{ name: 'shared', mountPath: '/shared' }];
    lab.run('all', [{ command, volumeMounts, restartPolicy: 'Never', restartPolicyRules: rules }, { name: 'other' }], {
      volumes: volumes(),
    });
    const first = await lab.pod('all', 'to run', (seen) => container(seen, 'other')?.state.running !== undefined);
    const pod = await lab.pod('all', 'to be restarted', (seen) => {
      const [main, other] = [container(seen, 'main'), container(seen, 'other')];
      const isOther = other?.containerID !== container(first, 'other')?.containerID;
      return isOther && other?.state.running !== undefined && main?.state.running !== undefined;
    });
    assert.equal(pod.metadata.uid, first.metadata.uid);
    lab.drop('all');
  });

  test('resources of a whole pod (1.34)', async (context) => {
    if (isTooOld(context, 34)) return;
    lab.run('whole', [{}, { name: 'other' }], { resources: { limits: { memory: '64Mi', cpu: '200m' } } });
    const pod = await lab.ready('whole');
    const id = container(pod)?.containerID?.replace(/^.*:\/\//, '') ?? '';
    const cgroups = readFileSync(`/proc/${await lab.pid(id)}/cgroup`, 'utf8');
    const [, path = ''] = /^\d+:memory:(.*)$/m.exec(cgroups) ?? /^0::(.*)$/m.exec(cgroups) ?? [];
    const places = [`/sys/fs/cgroup/memory${path}/../memory.limit_in_bytes`, `/sys/fs/cgroup${path}/../memory.max`];
    const limit = readFileSync(places[cgroups.includes(':memory:') ? 0 : 1] ?? '', 'utf8');
    assert.equal(Number(limit), 64 * 2 ** 20);
    lab.drop('whole');
  });

  test("only the manifest's groups, not the image's (1.33)", async (context) => {
    if (isTooOld(context, 33)) return;
    const groups = { runAsUser: 1000, runAsGroup: 1000, supplementalGroups: [3000] };
    lab.run('merged', [{}], { securityContext: groups });
    lab.run('strict', [{}], { securityContext: { ...groups, supplementalGroupsPolicy: 'Strict' } });
    await Promise.all([lab.ready('merged'), lab.ready('strict')]);
    assert.match(await lab.output('merged', 'id'), /groups=.*2000/);
    assert.doesNotMatch(await lab.output('strict', 'id'), /2000/);
    for (const name of ['merged', 'strict']) lab.drop(name);
  });

  test('all of /proc in a pod with users of its own (1.33)', async (context) => {
    if (isTooOld(context, 33)) return;
    lab.run('unmasked', [{ securityContext: { procMount: 'Unmasked' } }], { hostUsers: false });
    await lab.ready('unmasked');
    assert.doesNotMatch(await lab.output('unmasked', 'cat', '/proc/self/mountinfo'), / \/proc\/kcore /);
    lab.drop('unmasked');
  });

  test('mounts of a container reach the machine, and those of the machine the container', async () => {
    const base = join(shared, 'spread');
    mkdirSync(join(base, 'from-machine'), { recursive: true });
    execFileSync('mount', ['--bind', base, base]);
    execFileSync('mount', ['--make-shared', base]);
    try {
      const mount = { name: 'spread', mountPath: '/spread', mountPropagation: 'Bidirectional' };
      lab.run('spreading', [{ securityContext: { privileged: true }, volumeMounts: [mount] }], {
        volumes: [{ name: 'spread', hostPath: { path: base, type: 'Directory' } }],
      });
      await lab.ready('spreading');
      await lab.output(
        'spreading',
        'sh',
        '-c',
        'mkdir /spread/inner && mount -t tmpfs inner /spread/inner && echo hi > /spread/inner/x',
      );
      assert.equal(readFileSync(join(base, 'inner/x'), 'utf8'), 'hi\n');
      execFileSync('mount', ['-t', 'tmpfs', 'berth-kubelet', join(base, 'from-machine')]);
      assert.match(await lab.output('spreading', 'cat', '/proc/self/mountinfo'), / \/spread\/from-machine /);
      await lab.output('spreading', 'umount', '/spread/inner');
      await lab.remove('spreading');
    } finally {
      unmount(base);
    }
  });
});
