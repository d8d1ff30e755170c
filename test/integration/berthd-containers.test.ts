/** What a client asks of a container reaches its program: through berthd, conmon and each OCI runtime. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  ContainerState,
  ExecSyncRequest,
  ExecSyncResponse,
  MountPropagation,
  NamespaceMode,
  RuntimeServiceService as runtime,
  SecurityProfile_ProfileType,
  Signal,
  SupplementalGroupsPolicy,
  UpdateContainerResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { type ContainerFields, eventually, readLog } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const MIB = 1n << 20n;
const SHARED_PID = { namespaceOptions: { pid: NamespaceMode.POD } };
const PRIVILEGED = { privileged: true, namespaceOptions: { pid: NamespaceMode.CONTAINER } };
const IMAGE = {
  User: 'user:extra',
  Entrypoint: ['/bin/printf', '%s.'],
  Cmd: ['from', 'the', 'image'],
  Env: ['PATH=/bin', 'FIRST=image', 'SECOND=image'],
  WorkingDir: '/home/user',
  StopSignal: 'SIGINT',
};

type Security = NonNullable<NonNullable<ContainerFields['linux']>['securityContext']>;

const secured = (securityContext: Security): ContainerFields => ({ linux: { securityContext } });
const asRoot: Security = { runAsUser: { value: 0n } };
const script = (text: string): ContainerFields => ({ command: ['/bin/sh', '-c', text] });

for (const handler of ['runc', 'crun'] as const) {
  suite(`containers by ${handler}`, { timeout: patient(900_000) }, () => {
    const hugetlb = handler === 'crun' ? mountHugetlb() : undefined;
    let lab: PodLab;
    let pod: string;
    /** Its containers share their processes, so that none of them is the first. */
    let sharing: string;

    before(async () => {
      const config = `[runtime]\ndefault_runtime = "${handler}"`;
      lab = await PodLab.start({ config, image: IMAGE });
      pod = await lab.runPod();
      sharing = await lab.runPod(lab.podConfig({ linux: { securityContext: SHARED_PID } }));
    });
    afterEach(async (t) => {
      await lab.afterTest(t, [pod, sharing]);
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
      assert.deepEqual(lab.berthd.traces().runtimes ?? [], []);
      assert.deepEqual(lab.berthd.traces().snapshots ?? [], []);
    });
    after(async () => {
      await lab.close();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    test('the handler is the one that was asked for', async () => {
      const { info } = await lab.podStatus(pod, true);
      assert.equal((JSON.parse(info['info'] ?? '{}') as { runtimeHandler: string }).runtimeHandler, handler);
    });

    test('how a program ends is told with its code and reason', async () => {
      const tests: [string, ContainerFields, number, string][] = [
        ['well', script('exit 0'), 0, 'Completed'],
        ['with an error', script('exit 3'), 3, 'Error'],
        ['by SIGTERM', script('kill -TERM $$'), 143, 'Error'],
        ['by SIGKILL', script('kill -KILL $$'), 137, 'Error'],
      ];
      for (const [how, fields, exitCode, reason] of tests) {
        const found = await lab.run(sharing, { ...fields, ...secured(SHARED_PID) });
        assert.deepEqual([found.exitCode, found.reason], [exitCode, reason], how);
        assert.ok(found.createdAt > 0n && found.startedAt >= found.createdAt && found.finishedAt >= found.startedAt);
      }
    });

    test('a program that takes more memory than it may is OOMKilled', async () => {
      const found = await lab.run(pod, {
        ...script('x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done'),
        linux: { resources: { memoryLimitInBytes: 16n * MIB } },
      });
      assert.deepEqual([found.exitCode, found.reason], [137, 'OOMKilled']);
    });

    test('a child that ran out of memory counts too', async () => {
      const found = await lab.run(pod, {
        ...script('sh -c "x=aaaaaaaaaaaaaaaa; while :; do x=\\$x\\$x; done"; exit 5'),
        linux: { resources: { memoryLimitInBytes: 16n * MIB } },
      });
      assert.deepEqual([found.exitCode, found.reason], [5, 'OOMKilled']);
    });

    test('a stop sends the signal of the client, else that of the image, and kills after the grace period', async () => {
      const trap = (name: string): ContainerFields => ({
        ...script(`trap "exit 42" ${name}; echo ready; while :; do sleep 0.02; done`),
      });
      const stopped = async (fields: ContainerFields, timeout: bigint) => {
        const containerId = await lab.start(pod, fields);
        const { logPath } = await lab.status(containerId);
        await eventually('the trap is set', () => (/ready/.test(readFileSync(logPath, 'utf8')) ? true : undefined));
        await lab.berthd.call(runtime.stopContainer, { containerId, timeout });
        return await lab.status(containerId);
      };
      const byImage = await stopped(trap('INT'), 20n);
      assert.deepEqual([byImage.exitCode, byImage.stopSignal], [42, Signal.SIGNAL_SIGINT]);
      const byClient = await stopped({ ...trap('USR2'), stopSignal: Signal.SIGNAL_SIGUSR2 }, 20n);
      assert.deepEqual([byClient.exitCode, byClient.stopSignal], [42, Signal.SIGNAL_SIGUSR2]);
      const startedMs = performance.now();
      assert.equal(
        (await stopped({ ...script('trap "" INT; echo ready; while :; do sleep 0.02; done') }, 1n)).exitCode,
        137,
      );
      assert.ok(performance.now() - startedMs >= 1000, 'the grace period was waited for');
    });

    test('the log: streams, parts of long lines, what ends without a line break', async () => {
      const { logPath } = await lab.run(pod, script('echo out; echo err >&2; printf "%070000d\\n" 7; printf tail'));
      const log = readLog(logPath);
      assert.deepEqual(
        log.filter(({ stream }) => stream === 'stderr').map(({ tag, text }) => [tag, text]),
        [['F', 'err']],
      );
      const out = log.filter(({ stream }) => stream === 'stdout');
      assert.deepEqual([out[0]?.tag, out[0]?.text], ['F', 'out']);
      const whole = out.slice(1).map(({ text, tag }) => text + (tag === 'F' ? '\n' : ''));
      assert.equal(whole.join(''), `${'7'.padStart(70_000, '0')}\ntail`);
      assert.ok(
        log.every(({ timeMs }, index) => timeMs >= (log[index - 1]?.timeMs ?? 0)),
        'times ascend',
      );
    });

    test('command, arguments, variables and folder: the image has defaults, the client the last word', async () => {
      assert.equal(await lab.output(pod, { command: [] }), 'from.the.image.');
      assert.equal(await lab.output(pod, { command: [], args: ['own'] }), 'own.');
      assert.equal(await lab.output(pod, { command: ['/bin/echo'] }), '');
      const env = await lab.output(pod, {
        ...script('env; pwd'),
        envs: [
          { key: 'SECOND', value: Buffer.from('client') },
          { key: 'THIRD', value: Buffer.from('a=b "c" ü') },
          { key: 'THIRD', value: Buffer.from('last') },
        ],
      });
      const lines = new Set(env.split('\n'));
      for (const line of ['FIRST=image', 'SECOND=client', 'THIRD=last', 'PATH=/bin', 'HOME=/home/user', '/home/user'])
        assert.ok(lines.has(line), `${line} in ${env}`);
      assert.ok(lines.has(`HOSTNAME=${pod.slice(0, 12)}`), env);
      assert.equal(
        await lab.output(pod, { ...script('pwd; ls -ld .'), workingDir: '/made/for/it' }).then(firstLine),
        '/made/for/it',
      );
    });

    test('users and groups: by number, by name, by the image; merged or strict', async () => {
      const ids = 'id -u; id -g; sed -n "s/^Groups:[[:space:]]*//p" /proc/self/status';
      const run = async (securityContext: Security) => {
        const id = await lab.start(pod, secured(securityContext));
        const found = await lab.exec(id, 'sh', '-c', ids);
        const { user } = await lab.status(id);
        await lab.berthd.call(runtime.removeContainer, { containerId: id });
        return [...found.split('\n').map((line) => line.trim()), user?.linux?.supplementalGroups.join(' ')];
      };
      assert.deepEqual(await run({}), ['1000', '2000', '2000', '2000'], 'the USER of the image');
      assert.deepEqual(await run({ runAsUsername: 'nobody' }), ['65534', '65534', '65534', '65534']);
      assert.deepEqual(await run({ runAsUser: { value: 1000n }, supplementalGroups: [77n] }), [
        '1000',
        '1000',
        '77 1000 2000',
        '1000 2000 77',
      ]);
      assert.deepEqual(
        await run({
          runAsUser: { value: 1000n },
          runAsGroup: { value: 5n },
          supplementalGroups: [77n],
          supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
        }),
        ['1000', '5', '5 77', '5 77'],
      );
      assert.deepEqual((await run({ runAsUser: { value: 2_000_000_000n } })).slice(0, 2), ['2000000000', '0']);
    });

    test('capabilities: defaults, added, dropped, ambient', async () => {
      const capabilities = async (securityContext: Security) => {
        const text = await lab.output(pod, { ...script('cat /proc/self/status'), ...secured(securityContext) });
        return (set: string) => BigInt(`0x${new RegExp(`^Cap${set}:\\t(.*)$`, 'm').exec(text)?.[1]}`);
      };
      const [chown, bindService, rawNetwork, time] = [1n << 0n, 1n << 10n, 1n << 13n, 1n << 25n];
      const plain = await capabilities(asRoot);
      assert.deepEqual([plain('Eff') & chown, plain('Eff') & time], [chown, 0n]);
      assert.equal((await capabilities({ ...asRoot, capabilities: { dropCapabilities: ['ALL'] } }))('Bnd'), 0n);
      const some = await capabilities({
        ...asRoot,
        capabilities: { addCapabilities: ['CAP_SYS_TIME'], dropCapabilities: ['net_raw'] },
      });
      assert.deepEqual([some('Eff') & time, some('Bnd') & rawNetwork], [time, 0n]);
      const user = await capabilities({ capabilities: { addAmbientCapabilities: ['NET_BIND_SERVICE'] } });
      assert.deepEqual([user('Eff'), user('Amb')], [bindService, bindService], 'a user has what is ambient, no more');
      assert.equal((await capabilities({ capabilities: {} }))('Eff'), 0n);
    });

    test('seccomp: none, the default, a profile from a file', async () => {
      const profile = join(lab.berthd.root, 'no-mkdir.json');
      writeFileSync(
        profile,
        JSON.stringify({
          defaultAction: 'SCMP_ACT_ALLOW',
          syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 71 }],
        }),
      );
      const probe = 'sed -n "s/^Seccomp:\t//p" /proc/self/status; unshare -n true 2>&1; mkdir /tmp/x 2>&1; true';
      const run = (seccomp: Security['seccomp']) =>
        lab.output(pod, {
          ...script(probe),
          ...secured({ ...asRoot, capabilities: { addCapabilities: ['SYS_ADMIN'], dropCapabilities: [] }, seccomp }),
        });
      assert.equal(await run(undefined), '0');
      assert.equal(await run({ profileType: SecurityProfile_ProfileType.Unconfined }), '0');
      const local = { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: profile };
      assert.match(await run(local), /^2\nmkdir: .*Protocol error$/);
      const plain = await lab.output(pod, {
        ...script(probe),
        ...secured({ ...asRoot, seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault } }),
      });
      assert.match(plain, /^2\nunshare: .*Operation not permitted$/);
      const missing = await lab.refused(pod, secured({ seccomp: { ...local, localhostRef: '/no/such.json' } }));
      assert.deepEqual(
        [missing.code, /localhost_ref.*\/no\/such\.json/.test(missing.details)],
        [status.INVALID_ARGUMENT, true],
      );
    });

    test('a read-only root is one, and volumes in it are writable', async () => {
      const volume = makeVolume(lab);
      const id = await lab.start(pod, {
        mounts: [{ containerPath: '/data', hostPath: volume }],
        ...secured({ ...asRoot, readonlyRootfs: true }),
      });
      for (const path of ['/x', '/etc/hosts', '/etc/resolv.conf', '/etc/hostname']) {
        assert.match((await lab.tryExec(id, 'sh', '-c', `echo > ${path}`)).text, /Read-only file system/, path);
      }
      await lab.exec(id, 'sh', '-c', 'echo written > /data/file; echo shared > /dev/shm/file');
      assert.equal(readFileSync(join(volume, 'file'), 'utf8'), 'written\n');
    });

    test('mounts: read-only, over one another, through links of the host, a single file', async () => {
      const volume = makeVolume(lab);
      writeFileSync(join(volume, 'file'), 'outer');
      mkdirSync(join(volume, 'inner'));
      const inner = makeVolume(lab);
      writeFileSync(join(inner, 'file'), 'inner');
      execFileSync('ln', ['-s', volume, join(lab.berthd.root, `link-${handler}`)]);
      const id = await lab
        .start(pod, {
          mounts: [
            { containerPath: '/data/inner', hostPath: inner },
            { containerPath: '/data', hostPath: join(lab.berthd.root, `link-${handler}`), readonly: true },
            { containerPath: '/etc/one', hostPath: join(inner, 'file'), readonly: true },
          ],
          ...secured(asRoot),
        })
        .catch((err: unknown) => {
          throw err;
        });
      assert.equal(await lab.exec(id, 'cat', '/data/file', '/etc/one'), 'outerinner');
      assert.match((await lab.tryExec(id, 'touch', '/data/new')).text, /Read-only file system/);
      assert.match((await lab.tryExec(id, 'sh', '-c', 'echo > /etc/one')).text, /Read-only file system/);
      await lab.exec(id, 'touch', '/data/inner/new');
      assert.ok(existsSync(join(inner, 'new')));
      assert.deepEqual(
        (await lab.status(id)).mounts.map(({ containerPath, readonly }) => [containerPath, readonly]),
        [
          ['/data/inner', false],
          ['/data', true],
          ['/etc/one', true],
        ],
      );
    });

    test('mounts propagate as asked, from a mount that is shared', async () => {
      const volume = makeVolume(lab);
      const mount = (propagation: MountPropagation): ContainerFields => ({
        mounts: [{ containerPath: '/data', hostPath: volume, propagation }],
        ...secured({ ...asRoot, privileged: true }),
      });
      const trusted = await lab.runPod(lab.podConfig({ linux: { securityContext: PRIVILEGED } }));
      const unshared = await lab.refused(trusted, mount(MountPropagation.PROPAGATION_BIDIRECTIONAL));
      assert.deepEqual([unshared.code, /propagation/.test(unshared.details)], [status.INVALID_ARGUMENT, true]);
      execFileSync('mount', ['--bind', volume, volume]);
      execFileSync('mount', ['--make-shared', volume]);
      for (const folder of ['before', 'after', 'own']) mkdirSync(join(volume, folder));
      try {
        const named = (name: string, fields: ContainerFields) => lab.start(trusted, { metadata: { name }, ...fields });
        const down = await named('down', mount(MountPropagation.PROPAGATION_HOST_TO_CONTAINER));
        const both = await named('both', mount(MountPropagation.PROPAGATION_BIDIRECTIONAL));
        const none = await named('none', mount(MountPropagation.PROPAGATION_PRIVATE));
        execFileSync('mount', ['-t', 'tmpfs', 'berth-test', join(volume, 'after')]);
        const sees = async (id: string) => /\/data\/after/.test(await lab.exec(id, 'cat', '/proc/mounts'));
        assert.deepEqual([await sees(down), await sees(both), await sees(none)], [true, true, false]);
        await lab.exec(both, 'mount', '-t', 'tmpfs', 'berth-test', '/data/own');
        assert.match(readFileSync('/proc/self/mounts', 'utf8'), new RegExp(`${volume}/own`));
        await lab.exec(both, 'umount', '/data/own');
        await Promise.all(
          [down, both, none].map((containerId) => lab.berthd.call(runtime.removeContainer, { containerId })),
        );
        assert.match(readFileSync('/proc/self/mounts', 'utf8'), new RegExp(`${volume}/after`), 'still there');
      } finally {
        execFileSync('umount', ['--recursive', volume]);
      }
    });

    test('devices: only what is asked for, and only as it is asked for', {
      skip: existsSync('/dev/fuse') ? false : 'no /dev/fuse here',
    }, async () => {
      const id = await lab.start(pod, {
        metadata: { name: 'with' },
        devices: [{ hostPath: '/dev/fuse', containerPath: '/dev/berth', permissions: 'r' }],
        ...secured(asRoot),
      });
      assert.match(await lab.exec(id, 'ls', '-l', '/dev/berth'), /^c.* 10, +229 /);
      await lab.exec(id, 'sh', '-c', ': < /dev/berth');
      assert.match((await lab.tryExec(id, 'sh', '-c', ': > /dev/berth')).text, /Operation not permitted/);
      const without = await lab.start(pod, { metadata: { name: 'without' }, ...secured(asRoot) });
      await lab.exec(without, 'mknod', '/tmp/fuse', 'c', '10', '229');
      assert.match((await lab.tryExec(without, 'sh', '-c', ': < /tmp/fuse')).text, /Operation not permitted/);
      await lab.exec(without, 'sh', '-c', ': < /dev/zero > /dev/null');
    });

    test('a privileged container may do what berthd may', async () => {
      const trusted = await lab.runPod(lab.podConfig({ linux: { securityContext: PRIVILEGED } }));
      const id = await lab.start(trusted, secured({ ...asRoot, privileged: true }));
      const own = /^CapBnd:\t(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
      assert.match(await lab.exec(id, 'cat', '/proc/self/status'), new RegExp(`^CapEff:\t${own}$`, 'm'));
      await lab.exec(id, 'sh', '-c', ': < /dev/loop-control');
      await lab.exec(id, 'sh', '-c', 'mkdir /tmp/m; mount -t tmpfs x /tmp/m; umount /tmp/m');
      assert.match(await lab.exec(id, 'grep', ' /sys sysfs', '/proc/mounts'), / rw,/);
      const plain = await lab.start(pod, { metadata: { name: 'plain' } });
      assert.match(await lab.exec(plain, 'grep', ' /sys sysfs', '/proc/mounts'), / ro,/);
      assert.equal(await lab.exec(plain, 'sh', '-c', 'cat /proc/keys | wc -c'), '0', 'masked');
      const sysrq = await lab.tryExec(plain, 'sh', '-c', 'echo > /proc/sys/kernel/domainname');
      assert.notEqual(sysrq.exitCode, 0);
    });

    test('a terminal', async () => {
      const id = await lab.start(pod, { ...script('tty; echo $TERM; echo err >&2; sleep 1000'), tty: true });
      const { logPath } = await lab.status(id);
      const lines = await eventually('three lines', () => {
        const log = readLog(logPath);
        return log.length >= 3 ? log : undefined;
      });
      assert.deepEqual(
        lines.map(({ stream, text }) => `${stream} ${text.trimEnd()}`),
        ['stdout /dev/pts/0', 'stdout xterm', 'stdout err'],
      );
    });

    test('berthd comes before other programs, and what it starts does not', async (t) => {
      const mayChoose = execFileSync('nice', ['-n', '-1', 'nice'], { encoding: 'utf8' }).trim() === '-1';
      if (!mayChoose) return t.skip('needs CAP_SYS_NICE');
      assert.ok(getPriority(lab.berthd.pid) < 0);
      const containerId = await lab.start(pod);
      const { pid } = await lab.info(containerId);
      const parent = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
      assert.deepEqual([getPriority(pid), getPriority(parent)], [0, 0]);
      const { stdout } = await lab.berthd.call(
        runtime.execSync,
        ExecSyncRequest.create({ containerId, cmd: ['cat', '/proc/self/stat'], timeout: 60n }),
      );
      // Field 19: proc_pid_stat(5).
      assert.equal(Buffer.from(stdout).toString().split(') ')[1]?.split(' ')[16], '0');
    });

    test('limits reach the cgroup, and an update changes the cgroup and the status', async () => {
      const containerId = await lab.start(pod, {
        linux: {
          resources: {
            memoryLimitInBytes: 64n * MIB,
            cpuShares: 512n,
            cpuQuota: 50_000n,
            cpuPeriod: 100_000n,
            oomScoreAdj: 500n,
          },
        },
      });
      const { pid } = await lab.info(containerId);
      const limits = () => ({
        memory: readLimit(pid, 'memory', 'memory.limit_in_bytes', 'memory.max'),
        shares: readLimit(pid, 'cpu', 'cpu.shares', 'cpu.weight'),
        quota: readLimit(pid, 'cpu', 'cpu.cfs_quota_us', 'cpu.max'),
      });
      assert.deepEqual(limits(), { memory: 64 * 2 ** 20, shares: 512, quota: 50_000 });
      assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8'), '500\n');
      const linux = { memoryLimitInBytes: 96n * MIB, cpuQuota: 70_000n };
      await lab.berthd.call(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId, linux }),
      );
      assert.deepEqual(limits(), { memory: 96 * 2 ** 20, shares: 512, quota: 70_000 });
      const { resources } = await lab.status(containerId);
      const { memoryLimitInBytes, cpuQuota, cpuShares, cpuPeriod } = resources?.linux ?? {};
      assert.deepEqual([memoryLimitInBytes, cpuQuota, cpuShares, cpuPeriod], [96n * MIB, 70_000n, 512n, 100_000n]);
      const created = await lab.create(pod, { metadata: { name: 'created' } });
      await lab.berthd.call(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId: created, linux }),
      );
      assert.equal((await lab.status(created)).state, ContainerState.CONTAINER_CREATED);
      await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
      const late = await lab.berthd.fails(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId, linux }),
      );
      assert.equal(late.code, status.FAILED_PRECONDITION);
    });

    test('exec: as the container itself, with all of its output up to the cap, and its own exit code', async () => {
      const containerId = await lab.start(pod, { envs: [{ key: 'WHO', value: Buffer.from('berth') }] });
      assert.equal(await lab.exec(containerId, 'sh', '-c', 'id -un; pwd; echo $WHO'), 'user\n/home/user\nberth');
      const large = await lab.berthd.call(
        runtime.execSync,
        ExecSyncRequest.create({ containerId, cmd: ['sh', '-c', 'head -c 17000000 /dev/zero; exit 4'], timeout: 60n }),
      );
      assert.equal(large.exitCode, 4);
      const bytes = ExecSyncResponse.encode(large).finish().length;
      assert.ok(bytes <= 16 * 2 ** 20 && bytes > 16 * 2 ** 20 - 100, `${bytes} bytes, and the kubelet takes 16 MiB`);
      const killed = await lab.tryExec(containerId, 'sh', '-c', 'kill -9 $$');
      assert.equal(killed.exitCode, 137);
      const fast = await Promise.all(
        Array.from({ length: 8 }, (_, index) => lab.exec(containerId, 'sh', '-c', `echo ${index}`)),
      );
      assert.deepEqual(fast, ['0', '1', '2', '3', '4', '5', '6', '7']);
      // A child left behind neither delays the answer, which has a deadline, nor is killed with it.
      await lab.exec(containerId, 'sh', '-c', 'sleep 555 & echo started');
      for (const cmd of [[], ['']]) {
        const err = await lab.berthd.fails(runtime.execSync, { containerId, cmd, timeout: 1n });
        assert.deepEqual([err.code, /^cmd/.test(err.details)], [status.INVALID_ARGUMENT, true]);
      }
      await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
      const late = await lab.berthd.fails(runtime.execSync, { containerId, cmd: ['true'], timeout: 1n });
      assert.equal(late.code, status.FAILED_PRECONDITION);
    });

    test('only a created container can be started, and an ended one keeps its status', async () => {
      const containerId = await lab.start(pod, script('exit 6'));
      const ended = await lab.ended(containerId);
      const again = await lab.berthd.fails(runtime.startContainer, { containerId });
      assert.equal(again.code, status.FAILED_PRECONDITION);
      await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 5n });
      assert.deepEqual(await lab.status(containerId), ended);
    });
  });
}

/** A folder of the host that a container may have. */
function makeVolume(lab: PodLab): string {
  const volume = mkdtempSync(join(lab.berthd.root, 'volume-'));
  chmodSync(volume, 0o777);
  return volume;
}

const firstLine = (text: string): string => text.split('\n', 1)[0] ?? '';

/** A number of a process's cgroup: from `v1` in the controller's hierarchy, or from `v2`. */
function readLimit(pid: number, controller: string, v1: string, v2: string): number {
  const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  const own = new RegExp(`^\\d+:(?:[^:]*,)?${controller}(?:,[^:]*)?:(.*)$`, 'm').exec(groups)?.[1];
  if (own !== undefined) return Number(readFileSync(`/sys/fs/cgroup/${controller}${own}/${v1}`, 'utf8'));
  const unified = /^0::(.*)$/m.exec(groups)?.[1];
  return Number(readFileSync(`/sys/fs/cgroup${unified}/${v2}`, 'utf8').split(' ', 1)[0]);
}
