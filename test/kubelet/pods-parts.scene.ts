import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, suite, test } from 'node:test';

import { RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { container, IMAGE, KubeletLab } from './kubelet-lab.ts';

suite('volumes, resources and identities of pods', () => {
  let lab: KubeletLab;
  let config: string;

  before(async () => {
    lab = await KubeletLab.start();
    config = join(lab.berthd.root, 'config');
    mkdirSync(config);
    writeFileSync(join(config, 'word'), 'first\n');
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('folders and files of the machine: read-only, one file of them, changes are seen', async () => {
    const volumeMounts = [
      { name: 'config', mountPath: '/config', readOnly: true },
      { name: 'config', mountPath: '/etc/word', subPath: 'word' },
      { name: 'file', mountPath: '/etc/one-file' },
      { name: 'made', mountPath: '/made' },
    ];
    const volumes = [
      { name: 'config', hostPath: { path: config, type: 'Directory' } },
      { name: 'file', hostPath: { path: join(config, 'word'), type: 'File' } },
      { name: 'made', hostPath: { path: join(config, 'made'), type: 'DirectoryOrCreate' } },
    ];
    lab.run('configured', [{ volumeMounts }], { volumes });
    await lab.ready('configured');
    assert.equal(
      await lab.output('configured', 'cat', '/config/word', '/etc/word', '/etc/one-file'),
      'first\nfirst\nfirst',
    );
    const { exitCode, stderr } = await lab.exec('configured', ['touch', '/config/x']);
    assert.notEqual(exitCode, 0);
    assert.match(stderr.toString(), /Read-only/);
    await lab.output('configured', 'sh', '-c', 'echo here > /made/x');
    assert.equal(readFileSync(join(config, 'made/x'), 'utf8'), 'here\n');
    writeFileSync(join(config, 'word'), 'second\n');
    assert.equal(await lab.output('configured', 'cat', '/config/word', '/etc/word'), 'second\nsecond');
    lab.drop('configured');
  });

  test('empty folders are shared by the containers of a pod, on disk or in memory, and outlive a restart', async () => {
    const volumeMounts = [
      { name: 'disk', mountPath: '/disk' },
      { name: 'memory', mountPath: '/memory' },
    ];
    const volumes = [
      { name: 'disk', emptyDir: {} },
      { name: 'memory', emptyDir: { medium: 'Memory', sizeLimit: '8Mi' } },
    ];
    const command = ['sh', '-c', 'while [ ! -e /memory/end ]; do sleep 0.2; done; rm /memory/end; exit 1'];
    lab.run(
      'sharing',
      [
        { command, volumeMounts },
        { name: 'other', volumeMounts },
      ],
      { volumes },
    );
    await lab.ready('sharing');
    await lab.output('sharing', 'sh', '-c', 'echo kept | tee /disk/a > /memory/a');
    assert.match(await lab.output('sharing', 'df', '-k', '/memory'), /tmpfs\s+8192/);
    const { stdout } = await lab.exec('sharing', ['cat', '/disk/a', '/memory/a'], { container: 'other' });
    assert.equal(stdout.toString(), 'kept\nkept\n');
    await lab.output('sharing', 'touch', '/memory/end');
    await lab.pod('sharing', 'to be restarted', (pod) => {
      const status = container(pod, 'main');
      return status?.restartCount === 1 && status.state.running !== undefined;
    });
    assert.equal(await lab.output('sharing', 'cat', '/disk/a', '/memory/a'), 'kept\nkept');
    lab.drop('sharing');
  });

  test("a pod's facts as variables and files", async () => {
    const env = [
      { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
      { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
      { name: 'MEMORY', valueFrom: { resourceFieldRef: { resource: 'limits.memory' } } },
    ];
    const items = [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }];
    lab.run(
      'facts',
      [{ env, resources: { limits: { memory: '64Mi' } }, volumeMounts: [{ name: 'facts', mountPath: '/facts' }] }],
      { volumes: [{ name: 'facts', downwardAPI: { items } }] },
    );
    const pod = await lab.ready('facts');
    const said = await lab.output('facts', 'sh', '-c', 'echo $POD $IP $MEMORY $(cat /facts/name)');
    const name = pod.metadata.name;
    assert.equal(said, `${name} ${pod.status.podIP} ${64 * 2 ** 20} ${name}`);
    lab.drop('facts');
  });

  test('requests and limits arrive in the cgroup of the container and of the pod', async () => {
    const resources = { requests: { cpu: '100m', memory: '32Mi' }, limits: { cpu: '250m', memory: '64Mi' } };
    lab.run('limited', [{ resources }]);
    const pod = await lab.ready('limited');
    const id = container(pod)?.containerID?.replace(/^.*:\/\//, '') ?? '';
    const cgroups = readFileSync(`/proc/${await lab.pid(id)}/cgroup`, 'utf8');
    const { podsCgroup } = lab.kubelet;
    assert.match(cgroups, new RegExp(`${podsCgroup}/(kubepods-)?burstable(\\.slice)?/[^/]*pod[^/]+/berth-${id}`));
    if (cgroups.includes('memory:')) {
      const [, path = ''] = /^\d+:memory:(.*)$/m.exec(cgroups) ?? [];
      const folder = `/sys/fs/cgroup/memory${path}`;
      assert.equal(Number(readFileSync(`${folder}/memory.limit_in_bytes`, 'utf8')), 64 * 2 ** 20);
      assert.equal(Number(readFileSync(`${folder}/../memory.limit_in_bytes`, 'utf8')), 64 * 2 ** 20);
      const [, cpuPath = ''] = /^\d+:(?:cpu|cpu,cpuacct):(.*)$/m.exec(cgroups) ?? [];
      assert.equal(Number(readFileSync(`/sys/fs/cgroup/cpu${cpuPath}/cpu.cfs_quota_us`, 'utf8')), 25_000);
      assert.equal(Number(readFileSync(`/sys/fs/cgroup/cpu${cpuPath}/cpu.shares`, 'utf8')), 102);
    } else {
      const [, path = ''] = /^0::(.*)$/m.exec(cgroups) ?? [];
      assert.equal(readFileSync(`/sys/fs/cgroup${path}/memory.max`, 'utf8').trim(), String(64 * 2 ** 20));
      assert.equal(readFileSync(`/sys/fs/cgroup${path}/cpu.max`, 'utf8').trim(), '25000 100000');
    }
    lab.drop('limited');
  });

  test('changed resources of a static pod make a new one: there is no API to resize it by', async () => {
    lab.run('sized', [{ resources: { limits: { cpu: '100m', memory: '32Mi' } } }]);
    const old = await lab.ready('sized');
    lab.run('sized', [{ resources: { limits: { cpu: '200m', memory: '48Mi' } } }]);
    await lab.pod('sized', 'to be a new one', ({ metadata }) => metadata.uid !== old.metadata.uid);
    await lab.ready('sized');
    const said = await lab.output(
      'sized',
      'sh',
      '-c',
      'cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max',
    );
    assert.equal(said, String(48 * 2 ** 20));
    lab.drop('sized');
  });

  test('users, groups, capabilities, a read-only root', async () => {
    const securityContext = {
      runAsUser: 1000,
      runAsGroup: 3000,
      readOnlyRootFilesystem: true,
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    };
    lab.run('humble', [{ securityContext, volumeMounts: [{ name: 'data', mountPath: '/data' }] }], {
      securityContext: { fsGroup: 4000, supplementalGroups: [5000] },
      volumes: [{ name: 'data', emptyDir: {} }],
    });
    const pod = await lab.ready('humble');
    assert.match(await lab.output('humble', 'id'), /uid=1000.* gid=3000.* groups=.*4000.*5000/);
    const facts = await lab.output('humble', 'sh', '-c', 'grep -E "CapEff|NoNewPrivs|Seccomp:" /proc/self/status');
    assert.match(facts, /CapEff:\s+0{16}\nNoNewPrivs:\s+1\nSeccomp:\s+2/);
    assert.equal(await lab.output('humble', 'sh', '-c', 'touch /data/x; stat -c %g /data/x'), '4000');
    assert.notEqual((await lab.exec('humble', ['touch', '/x'])).exitCode, 0);
    const user = container(pod)?.user?.linux;
    if (user) assert.deepEqual([user.uid, user.gid], [1000, 3000]);
    lab.drop('humble');
  });

  test("a seccomp profile of the node's own", async () => {
    const profile = {
      defaultAction: 'SCMP_ACT_ALLOW',
      syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }],
    };
    lab.kubelet.addSeccompProfile('no-folders.json', profile);
    const seccompProfile = { type: 'Localhost', localhostProfile: 'no-folders.json' };
    lab.run('filtered', [{ securityContext: { seccompProfile } }, { name: 'other' }]);
    await lab.ready('filtered');
    assert.match((await lab.exec('filtered', ['mkdir', '/tmp/x'])).stderr.toString(), /not permitted/);
    assert.equal((await lab.exec('filtered', ['mkdir', '/tmp/x'], { container: 'other' })).exitCode, 0);
    lab.drop('filtered');
  });

  test("a pod in the machine's process and IPC namespaces", async () => {
    lab.run('within', [{}], { hostPID: true, hostIPC: true });
    await lab.ready('within');
    assert.equal(await lab.output('within', 'readlink', '/proc/self/ns/ipc'), readlinkSync('/proc/self/ns/ipc'));
    assert.match(await lab.output('within', 'cat', `/proc/${lab.berthd.pid}/cmdline`), /berth/);
    lab.drop('within');
  });

  test('a container that must not be root is refused where the image says root', async () => {
    lab.run('nobody', [{ securityContext: { runAsNonRoot: true } }]);
    const pod = await lab.pod(
      'nobody',
      'to be refused',
      (seen) => container(seen)?.state.waiting?.message !== undefined,
    );
    assert.equal(container(pod)?.state.waiting?.reason, 'CreateContainerConfigError');
    lab.drop('nobody');
  });

  test('processes of one namespace, or of their own', async () => {
    lab.run('together', [{}, { name: 'other' }], { shareProcessNamespace: true });
    lab.run('apart', [{}, { name: 'other' }]);
    await Promise.all([lab.ready('together'), lab.ready('apart')]);
    const count = 'ls -d /proc/[0-9]* | while read p; do tr "\\0" " " < $p/cmdline; echo; done | grep -c "^sh -c trap"';
    assert.equal(await lab.output('together', 'sh', '-c', count), '2');
    assert.equal(await lab.output('apart', 'sh', '-c', count), '1');
    for (const name of ['together', 'apart']) lab.drop(name);
  });

  test('a privileged container sees the devices, another one does not', async () => {
    lab.run('mighty', [{ securityContext: { privileged: true } }, { name: 'other' }]);
    await lab.ready('mighty');
    assert.equal(await lab.output('mighty', 'sh', '-c', 'test -e /dev/kmsg && echo yes'), 'yes');
    assert.notEqual((await lab.exec('mighty', ['test', '-e', '/dev/kmsg'], { container: 'other' })).exitCode, 0);
    lab.drop('mighty');
  });

  test('a pod with users of its own', async (context) => {
    const { runtimeHandlers } = await lab.berthd.call(runtime.status, { verbose: false });
    if (!runtimeHandlers.some(({ name, features }) => name === '' && features?.userNamespaces))
      return context.skip('the runtime, or a kernel before 6.3, has no user namespaces for pods');
    lab.run('mapped', [{ volumeMounts: [{ name: 'data', mountPath: '/data' }] }], {
      hostUsers: false,
      volumes: [{ name: 'data', emptyDir: {} }],
    });
    await lab.ready('mapped');
    const map = await lab.output('mapped', 'cat', '/proc/self/uid_map');
    assert.match(map, /^0\s+[1-9]\d{4,}\s+65536$/, 'root of the pod is nobody on the machine');
    assert.equal(await lab.output('mapped', 'sh', '-c', 'touch /data/x; stat -c %u /data/x'), '0');
    lab.drop('mapped');
  });

  test('an image that is not there is told, and never pulled when that is the wish', async () => {
    lab.run('absent', [{ image: 'example.com/absent:1', imagePullPolicy: 'Never' }]);
    const pod = await lab.pod(
      'absent',
      'to wait for its image',
      (seen) => container(seen)?.state.waiting?.reason === 'ErrImageNeverPull',
    );
    assert.equal(container(pod)?.image, 'example.com/absent:1');
    lab.run('absent', [{ image: IMAGE }]);
    await lab.ready('absent');
    lab.drop('absent');
  });
});
