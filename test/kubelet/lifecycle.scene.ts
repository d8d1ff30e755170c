import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, suite, test } from 'node:test';

import { type ContainerFields, container, IMAGE, KubeletLab } from './kubelet-lab.ts';
import { holds } from './pods.ts';
import { until } from './until.ts';

suite('lives of containers', () => {
  let lab: KubeletLab;
  /** A folder of the machine that pods write into. */
  let shared: string;
  const sharedVolume = (): object => ({ volumes: [{ name: 'shared', hostPath: { path: shared, type: 'Directory' } }] });
  const volumeMounts = [{ name: 'shared', mountPath: '/shared' }];
  const written = (name: string): string => {
    try {
      return readFileSync(join(shared, name), 'utf8');
    } catch {
      return '';
    }
  };

  before(async () => {
    lab = await KubeletLab.start();
    shared = join(lab.berthd.root, 'shared');
    mkdirSync(shared);
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('a container that fails is restarted with a growing back-off, and keeps its message', async () => {
    const command = ['sh', '-c', 'echo broken > /dev/termination-log; echo trying; exit 3'];
    lab.run('failing', [{ command }]);
    const pod = await lab.pod('failing', 'to be held back', (seen) => {
      const status = container(seen);
      return status?.state.waiting?.reason === 'CrashLoopBackOff' && status.restartCount >= 1;
    });
    const ended = container(pod)?.lastState.terminated;
    assert.equal(ended?.exitCode, 3);
    assert.equal(ended?.reason, 'Error');
    assert.equal(ended?.message, 'broken\n');
    assert.match(container(pod)?.state.waiting?.message ?? '', /^back-off 10s restarting failed/);
    assert.equal(await lab.logs('failing'), 'trying\n');
    assert.equal(await lab.logs('failing', 'main', '?previous=true').catch(() => 'trying\n'), 'trying\n');
    lab.drop('failing');
  });

  test('a container that is to fall back to its logs has their end as its message', async () => {
    const command = ['sh', '-c', 'echo one; echo the last word; exit 1'];
    lab.run('last-words', [{ command, terminationMessagePolicy: 'FallbackToLogsOnError' }], { restartPolicy: 'Never' });
    const pod = await lab.pod('last-words', 'to have failed', ({ status }) => status.phase === 'Failed');
    assert.equal(container(pod)?.state.terminated?.message, 'one\nthe last word\n');
    lab.drop('last-words');
  });

  test('a pod whose containers end well has succeeded, and is not restarted', async () => {
    lab.run('done', [{ command: ['true'] }, { name: 'other', command: ['true'] }], { restartPolicy: 'OnFailure' });
    const pod = await lab.pod('done', 'to have succeeded', ({ status }) => status.phase === 'Succeeded');
    for (const status of pod.status.containerStatuses ?? []) {
      assert.equal(status.restartCount, 0);
      assert.equal(status.state.terminated?.reason, 'Completed');
    }
    lab.drop('done');
  });

  test('init containers run one after the other before the rest', async () => {
    const step = (name: string): ContainerFields => ({
      name,
      command: ['sh', '-c', `echo ${name} >> /shared/order`],
      volumeMounts,
    });
    lab.run('initiated', [{ command: ['sh', '-c', 'echo main >> /shared/order; exec sleep 1000'], volumeMounts }], {
      initContainers: [step('first'), step('second')],
      ...sharedVolume(),
    });
    const pod = await lab.ready('initiated');
    assert.equal(written('order'), 'first\nsecond\nmain\n');
    assert.ok(holds(pod, 'Initialized'));
    assert.deepEqual(
      pod.status.initContainerStatuses?.map(({ state }) => state.terminated?.exitCode),
      [0, 0],
    );
    lab.drop('initiated');
  });

  test('an init container that fails is tried again, and nothing else runs meanwhile', async () => {
    const command = ['sh', '-c', 'echo x >> /shared/tries; [ $(wc -l < /shared/tries) -ge 2 ]'];
    lab.run('stubborn', [{}], { initContainers: [{ name: 'tries', command, volumeMounts }], ...sharedVolume() });
    const pod = await lab.ready('stubborn');
    assert.equal(written('tries'), 'x\nx\n');
    assert.equal(container(pod, 'tries')?.restartCount, 1);
    lab.drop('stubborn');
  });

  test('a sidecar starts before the others, is restarted by itself, and ends after them', async () => {
    const note = (name: string, say = name): string[] => [
      'sh',
      '-c',
      `echo ${say} up >> /shared/sidecar; trap 'echo ${name} down >> /shared/sidecar; exit 0' TERM; while :; do sleep 1000 & wait $!; done`,
    ];
    const sidecar = {
      name: 'sidecar',
      restartPolicy: 'Always',
      command: note('sidecar'),
      volumeMounts,
      startupProbe: { exec: { command: ['test', '-s', '/shared/sidecar'] }, periodSeconds: 1 },
    };
    lab.run('with-sidecar', [{ command: note('main'), volumeMounts }], {
      initContainers: [sidecar],
      terminationGracePeriodSeconds: 10,
      ...sharedVolume(),
    });
    await lab.ready('with-sidecar');
    assert.equal(written('sidecar'), 'sidecar up\nmain up\n');
    await lab.exec('with-sidecar', ['kill', '-9', '-1'], { container: 'sidecar' }).catch(() => undefined);
    await lab.exec('with-sidecar', ['sh', '-c', 'kill 1'], { container: 'sidecar' }).catch(() => undefined);
    const pod = await lab.pod('with-sidecar', 'to have its sidecar again', (seen) => {
      const status = container(seen, 'sidecar');
      return status?.restartCount === 1 && status.state.running !== undefined && holds(seen, 'Ready');
    });
    assert.equal(container(pod, 'main')?.restartCount, 0);
    await lab.remove('with-sidecar');
    await until('the sidecar to end last', 20_000, () =>
      written('sidecar').endsWith('main down\nsidecar down\n') ? true : undefined,
    );
  });

  test('preStop runs before the signal, and both have the grace period together', async () => {
    const lifecycle = {
      postStart: { exec: { command: ['sh', '-c', 'echo started >> /shared/hooks'] } },
      preStop: { exec: { command: ['sh', '-c', 'sleep 1; echo stopping >> /shared/hooks'] } },
    };
    const command = [
      'sh',
      '-c',
      "trap 'echo signalled >> /shared/hooks; exit 0' TERM; while :; do sleep 1000 & wait $!; done",
    ];
    lab.run('hooked', [{ command, lifecycle, volumeMounts }], { terminationGracePeriodSeconds: 20, ...sharedVolume() });
    await lab.ready('hooked');
    const begun = performance.now();
    await lab.remove('hooked');
    assert.equal(written('hooks'), 'started\nstopping\nsignalled\n');
    assert.ok(performance.now() - begun < 19_000, 'the grace period was not waited for');
  });

  test('a container that ignores its signal is killed when the grace period is over', async () => {
    const command = ['sh', '-c', "trap 'echo ignored >> /shared/deaf' TERM; while :; do sleep 1; done"];
    lab.run('deaf', [{ command, volumeMounts }], { terminationGracePeriodSeconds: 3, ...sharedVolume() });
    await lab.ready('deaf');
    const begun = performance.now();
    await lab.remove('deaf');
    assert.equal(written('deaf'), 'ignored\n');
    assert.ok(performance.now() - begun >= 3000, 'the grace period was given');
  });

  test('a failing postStart kills its container', async () => {
    lab.run('unwell', [{ lifecycle: { postStart: { exec: { command: ['false'] } } } }]);
    const pod = await lab.pod('unwell', 'to be restarted', (seen) => (container(seen)?.restartCount ?? 0) >= 1);
    assert.ok(container(pod)?.lastState.terminated, 'it has ended before');
    lab.drop('unwell');
  });

  test('a container that takes more memory than its limit is killed, and the kubelet says OOMKilled', async () => {
    const command = ['sh', '-c', 'x=$(head -c 200000000 /dev/zero | tr "\\0" x); echo "$x" | wc -c'];
    lab.run('greedy', [{ command, resources: { limits: { memory: '32Mi' } } }], { restartPolicy: 'Never' });
    const pod = await lab.pod('greedy', 'to have ended', ({ status }) => status.phase === 'Failed');
    assert.equal(container(pod)?.state.terminated?.reason, 'OOMKilled');
    lab.drop('greedy');
  });

  test('a changed manifest makes a new pod, in which nothing of the old one runs', async () => {
    lab.run('changing', [{ env: [{ name: 'WORD', value: 'old' }] }]);
    const old = await lab.ready('changing');
    lab.run('changing', [{ env: [{ name: 'WORD', value: 'new' }] }]);
    const pod = await lab.pod(
      'changing',
      'to be a new one',
      (seen) => seen.metadata.uid !== old.metadata.uid && holds(seen, 'Ready'),
    );
    assert.equal(await lab.output('changing', 'sh', '-c', 'echo $WORD'), 'new');
    assert.notEqual(container(pod)?.containerID, container(old)?.containerID);
    lab.drop('changing');
  });

  test('a container that cannot be made says why, and is made once it can be', async () => {
    const mounts = [{ name: 'shared', mountPath: '/shared', subPath: 'config/word' }];
    lab.run('waiting', [{ command: ['/no/such/program'] }], { ...sharedVolume() });
    const broken = await lab.pod('waiting', 'to be refused', (seen) => {
      const { waiting, terminated } = container(seen)?.state ?? {};
      return /no such file|not found/.test(
        `${waiting?.message} ${terminated?.message} ${container(seen)?.lastState.terminated?.message}`,
      );
    });
    const reasons = [container(broken)?.state.terminated?.reason, container(broken)?.lastState.terminated?.reason];
    assert.ok(
      reasons.includes('StartError') ||
        reasons.includes('ContainerCannotRun') ||
        container(broken)?.state.waiting?.reason,
      'it has a reason',
    );
    mkdirSync(join(shared, 'config'));
    writeFileSync(join(shared, 'config/word'), 'found\n');
    lab.run('waiting', [{ image: IMAGE, volumeMounts: mounts }], { ...sharedVolume() });
    await lab.ready('waiting');
    assert.equal(await lab.output('waiting', 'cat', '/shared'), 'found');
    lab.drop('waiting');
  });
});
