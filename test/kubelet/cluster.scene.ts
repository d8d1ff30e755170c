import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, suite, test } from 'node:test';

import { ImageServiceService as imageService, ListImagesRequest } from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, pushLayout, startRegistry } from '../fakes/images.ts';
import { patient } from '../harness/patience.ts';
import { TestApiServer } from './api-server.ts';
import { unmount } from './folder-mounts.ts';
import { kubeletMinor, NODE } from './kubelet.ts';
import { container, KubeletLab } from './kubelet-lab.ts';
import { holds } from './pods.ts';
import { until } from './until.ts';

suite('pods of an API server', () => {
  let lab: KubeletLab;
  let api: TestApiServer;

  before(async () => {
    api = await TestApiServer.start();
    lab = await KubeletLab.start({ api, berthd: { config: '[runtime.handlers.mine]\npath = "runc"' } });
  });
  after(async () => {
    await lab[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
  });
  afterEach((test) => lab.afterTest(test));

  test('the node is ready, names its runtime and what its handlers can', async () => {
    const node = await until('the node to be ready', 60_000, () => {
      const found = api.find('nodes', NODE);
      const conditions = (found?.status?.['conditions'] ?? []) as { type: string; status: string }[];
      return conditions.some(({ type, status }) => type === 'Ready' && status === 'True') ? found : undefined;
    });
    const { nodeInfo, runtimeHandlers = [] } = node.status as {
      nodeInfo: { containerRuntimeVersion: string };
      runtimeHandlers?: readonly { name: string; features: Record<string, boolean> }[];
    };
    assert.match(nodeInfo.containerRuntimeVersion, /^berth:\/\/\d/);
    for (const name of ['', 'mine'])
      assert.ok(
        runtimeHandlers.some((one) => one.name === name),
        `handler "${name}"`,
      );
  });

  test("a pod's RuntimeClass leads to its handler; one without a handler is told", async () => {
    api.put('runtimeclasses', { metadata: { name: 'first' }, handler: 'mine' }, 'apis/node.k8s.io/v1');
    api.put('runtimeclasses', { metadata: { name: 'broken' }, handler: 'nowhere' }, 'apis/node.k8s.io/v1');
    await until('the kubelet to have them', 10_000, () => (api.list('runtimeclasses').length === 2 ? true : undefined));
    lab.run('classy', [{}], { runtimeClassName: 'first' });
    await lab.ready('classy');
    lab.run('lost', [{}], { runtimeClassName: 'broken' });
    const said = await until('an event', 60_000, () =>
      api.list('events').find(({ involvedObject, message }) => {
        const { name } = (involvedObject ?? {}) as { name?: string };
        return name === 'lost' && String(message).includes('nowhere');
      }),
    );
    assert.equal(said['reason'], 'FailedCreatePodSandBox');
    await lab.remove('lost');
    await lab.remove('classy');
  });

  test('ConfigMaps and Secrets as files and variables; changes arrive in the files', {
    timeout: patient(240_000),
  }, async () => {
    api.put('configmaps', { metadata: { name: 'settings', namespace: 'default' }, data: { word: 'first' } });
    const secret = Buffer.from('hidden').toString('base64');
    api.put('secrets', { metadata: { name: 'keys', namespace: 'default' }, type: 'Opaque', data: { key: secret } });
    const env = [
      { name: 'WORD', valueFrom: { configMapKeyRef: { name: 'settings', key: 'word' } } },
      { name: 'KEY', valueFrom: { secretKeyRef: { name: 'keys', key: 'key' } } },
    ];
    const volumeMounts = [
      { name: 'settings', mountPath: '/settings' },
      { name: 'keys', mountPath: '/keys' },
    ];
    lab.run('configured', [{ env, volumeMounts }], {
      volumes: [
        { name: 'settings', configMap: { name: 'settings', defaultMode: 0o644 } },
        { name: 'keys', secret: { secretName: 'keys', defaultMode: 0o400 } },
      ],
    });
    await lab.ready('configured');
    const said = await lab.output(
      'configured',
      'sh',
      '-c',
      'echo $WORD $KEY $(cat /settings/word); cat /keys/key; echo; stat -Lc %a /keys/key',
    );
    assert.equal(said, 'first hidden first\nhidden\n400');
    api.put('configmaps', { metadata: { name: 'settings', namespace: 'default' }, data: { word: 'second' } });
    await until('the new word', 150_000, async () =>
      (await lab.output('configured', 'cat', '/settings/word')) === 'second' ? true : undefined,
    );
    await lab.remove('configured');
  });

  test('an image that needs a password is pulled with the Secret of the pod, not without', async () => {
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    const registry = await startRegistry({ auth: true });
    try {
      // The kubelet remembers by an image's content that it needs a password.
      const built = await buildBusyboxLayout(layout, { tag: 'private:1', files: { private: 'yes\n' } });
      const image = await pushLayout(built, registry, 'private:1');
      const word = Buffer.from(`${registry.username}:${registry.password}`).toString('base64');
      const login = JSON.stringify({ auths: { [registry.host]: { auth: word } } });
      const data = { '.dockerconfigjson': Buffer.from(login).toString('base64') };
      const metadata = { name: 'login', namespace: 'default' };
      api.put('secrets', { metadata, type: 'kubernetes.io/dockerconfigjson', data });
      lab.run('stranger', [{ image }]);
      const refused = await lab.pod('stranger', 'to be refused', (pod) =>
        /ErrImagePull|ImagePullBackOff/.test(container(pod)?.state.waiting?.reason ?? ''),
      );
      assert.match(
        container(refused)?.state.waiting?.message ?? '',
        /authentication required|unauthorized|denied|back-off/i,
      );
      lab.run('member', [{ image }], { imagePullSecrets: [{ name: 'login' }] });
      await lab.ready('member');
      if ((await kubeletMinor()) >= 35) {
        // What is waited for in vain takes as long as that anywhere.
        const vainMs = 20_000 / patient(1);
        const pull = lab.pod('stranger', 'to be let in', (pod) => holds(pod, 'Ready'), vainMs);
        await assert.rejects(pull, 'that the image is there now helps nobody who could not pull it');
      }
      await Promise.all(['stranger', 'member'].map((name) => lab.remove(name)));
    } finally {
      await registry.close();
      rmSync(layout, { recursive: true });
    }
  });

  test('a running container is given more and less, without a restart', async (context) => {
    const resize = (memory: string, cpu: string): void => {
      const resources = { limits: { memory, cpu }, requests: { memory, cpu } };
      api.edit('pods', 'growing', { spec: { containers: [{ name: 'main', resources }] } });
    };
    const limits = { memory: '32Mi', cpu: '100m' };
    lab.run('growing', [
      {
        resources: { limits, requests: limits },
        resizePolicy: [
          { resourceName: 'cpu', restartPolicy: 'NotRequired' },
          { resourceName: 'memory', restartPolicy: 'NotRequired' },
        ],
      },
    ]);
    const before = await lab.ready('growing');
    for (const [memory, bytes, cpu] of [
      ['64Mi', 64 * 2 ** 20, '200m'],
      ['48Mi', 48 * 2 ** 20, '150m'],
    ] as const) {
      resize(memory, cpu);
      const pod = await lab.pod(
        'growing',
        `to have ${memory}`,
        (seen) => container(seen)?.resources?.limits?.['memory'] === memory,
      );
      if (container(pod)?.resources === undefined) return context.skip('the kubelet does not resize pods');
      const said = await lab.output(
        'growing',
        'sh',
        '-c',
        'cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max',
      );
      assert.equal(said, String(bytes));
      assert.equal(container(pod)?.resources?.limits?.['cpu'], cpu);
      assert.equal(container(pod)?.containerID, container(before)?.containerID);
      assert.equal(container(pod)?.restartCount, 0);
    }
    await lab.remove('growing');
  });

  test('read-only mounts that are so below too, where the runtime can', async (context) => {
    const base = join(lab.berthd.root, 'tree');
    const below = join(base, 'below');
    mkdirSync(below, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', 'berth-kubelet', below]);
    try {
      const mounts = [
        { name: 'tree', mountPath: '/deep', readOnly: true, recursiveReadOnly: 'Enabled' },
        { name: 'tree', mountPath: '/flat', readOnly: true },
      ];
      const volumes = [{ name: 'tree', hostPath: { path: base, type: 'Directory' } }];
      lab.run('deep', [{ volumeMounts: mounts }], { runtimeClassName: 'first', volumes });
      const pod = await lab.pod('deep', 'to be ready or refused', (seen) => {
        return holds(seen, 'Ready') || container(seen)?.state.waiting?.message !== undefined;
      });
      const refused = container(pod)?.state.waiting?.message;
      if (refused !== undefined && /not supported by the runtime/.test(refused)) return context.skip(refused);
      assert.equal(refused, undefined);
      assert.match((await lab.exec('deep', ['touch', '/deep/below/x'])).stderr.toString(), /Read-only/);
      assert.equal((await lab.exec('deep', ['touch', '/flat/below/x'])).exitCode, 0);
    } finally {
      await lab.remove('deep');
      unmount(below);
    }
  });

  test('a debug container joins a running pod', async () => {
    lab.run('debugged', [{}]);
    const pod = await lab.ready('debugged');
    const debugging = { ...DEBUGGER, image: container(pod)?.image };
    api.edit('pods', 'debugged', { spec: { ephemeralContainers: [debugging] } });
    const { stdout } = await until('it to run', 60_000, async () => {
      const done = await lab
        .exec('debugged', ['sh', '-c', 'tr "\\0" " " < /proc/1/cmdline'], { container: 'debugger' })
        .catch(() => undefined);
      return done?.exitCode === 0 ? done : undefined;
    });
    assert.match(stdout.toString(), /^sh -c trap/, "it sees the target's processes");
    await lab.remove('debugged');
  });
});

const DEBUGGER = {
  name: 'debugger',
  command: ['sleep', '1000'],
  imagePullPolicy: 'Never',
  targetContainerName: 'main',
  terminationMessagePath: '/dev/termination-log',
  terminationMessagePolicy: 'File',
};

suite('a full disk', () => {
  let lab: KubeletLab;
  let api: TestApiServer;
  before(async () => {
    api = await TestApiServer.start();
    lab = await KubeletLab.start({
      api,
      diskBytes: 64 * 2 ** 20,
      config: { evictionHard: { 'nodefs.available': '24Mi' }, evictionPressureTransitionPeriod: '5s' },
    });
  });
  after(async () => {
    await lab[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
  });
  afterEach((test) => lab.afterTest(test));

  test('the pod that fills it is evicted, another one goes on', { timeout: patient(240_000) }, async () => {
    lab.run('modest', [{}]);
    const before = await lab.ready('modest');
    const command = ['sh', '-c', 'head -c 50000000 /dev/zero > /data/big; exec sleep 1000'];
    lab.run('filling', [{ command, volumeMounts: [{ name: 'data', mountPath: '/data' }] }], {
      volumes: [{ name: 'data', emptyDir: {} }],
    });
    const evicted = await lab.pod('filling', 'to be evicted', ({ status }) => status.reason === 'Evicted', 150_000);
    assert.equal(evicted.status.phase, 'Failed');
    assert.match(evicted.status.message ?? '', /ephemeral-storage/);
    const modest = await lab.pod('modest', 'to be ready', (pod) => holds(pod, 'Ready'));
    assert.equal(container(modest)?.containerID, container(before)?.containerID);
    await lab.remove('filling');
  });

  test('a pod that takes more than its limit of the disk is evicted', { timeout: patient(240_000) }, async () => {
    // Its writable layer is berthd's: this is what ListContainerStats says of it.
    const command = ['sh', '-c', 'head -c 9000000 /dev/zero > /big; exec sleep 1000'];
    await until('the disk to be free', 60_000, () => {
      const taints = (api.find('nodes', NODE)?.spec?.['taints'] ?? []) as { key: string }[];
      const conditions = (api.find('nodes', NODE)?.status?.['conditions'] ?? []) as { type: string; status: string }[];
      const isFull = conditions.some(({ type, status }) => type === 'DiskPressure' && status === 'True');
      return isFull || taints.some(({ key }) => key.includes('disk')) ? undefined : true;
    });
    lab.run('wide', [{ command, resources: { limits: { 'ephemeral-storage': '4Mi' } } }]);
    const evicted = await lab.pod('wide', 'to be evicted', ({ status }) => status.reason === 'Evicted', 150_000);
    assert.match(evicted.status.message ?? '', /exceed/);
    await lab.remove('wide');
  });
});

suite('a full disk of images', () => {
  let lab: KubeletLab;
  before(async () => {
    // No disk is ever as free as that.
    lab = await KubeletLab.start({
      config: { evictionHard: { 'nodefs.available': '99.9%' }, imageMinimumGCAge: '1s' },
    });
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('images that nobody uses are removed at once', { timeout: patient(120_000) }, async () => {
    await until('no image to be there', 60_000, async () => {
      const { images } = await lab.berthd.call(imageService.listImages, ListImagesRequest.create());
      return images.length === 0 ? true : undefined;
    });
  });
});
