/** Images as volumes: what a container sees of them, and what it cannot reach through them; by each OCI runtime. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  ImageServiceService as images,
  MountPropagation,
  NamespaceMode,
  RuntimeServiceService as runtime,
  type UserNamespace,
} from '../../proto/gen/cri/api.ts';
import { readMounts } from '../../src/sys/mount.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { type ContainerFields, eventually } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const VOLUME = 'example.com/volume:test';
const RANGE = { hostId: 400_000, containerId: 0, length: 65_536 };
const MAPPED: UserNamespace = { mode: NamespaceMode.POD, uids: [RANGE], gids: [RANGE] };
const script = (text: string): ContainerFields => ({ command: ['/bin/sh', '-c', text] });

type MountFields = NonNullable<ContainerFields['mounts']>[number];

const volume = (more: MountFields = {}): MountFields => ({
  containerPath: '/volume',
  image: { image: VOLUME },
  readonly: true,
  ...more,
});

/** An image whose upper layer hides a part of the lower one, with links that lead everywhere. */
async function loadVolume(lab: PodLab): Promise<string> {
  const layout = mkdtempSync(join(tmpdir(), 'berth-volume-'));
  try {
    await buildBusyboxLayout(layout, {
      tag: VOLUME,
      files: { 'etc/passwd': 'of the image\n', 'data/below/file': 'below\n', 'data/gone': 'gone\n' },
      layers: [{ 'data/above': 'above\n', 'data/.wh.gone': '' }],
      async populate(root) {
        writeFileSync(join(root, 'data/run'), '#!/bin/sh\necho ran\n', { mode: 0o755 });
        for (const [name, target] of [
          ['absolute', '/etc'],
          ['climbing', '../../../../../../etc'],
          ['inside', '../data/below'],
          ['magic', '/proc/self/root'],
          ['loop', 'loop'],
        ] as const)
          symlinkSync(target, join(root, 'data', name));
        execFileSync('mkfifo', [join(root, 'data/fifo')]);
        mkdirSync(join(root, 'data/a folder'));
      },
    });
    const loaded = await lab.berthd.call(AdminService.loadImage, { path: layout, name: '' });
    return loaded.images[0]?.id ?? '';
  } finally {
    rmSync(layout, { recursive: true });
  }
}

for (const handler of ['runc', 'crun'] as const) {
  suite(`image volumes by ${handler}`, { timeout: 900_000 }, () => {
    const hugetlb = handler === 'crun' ? mountHugetlb() : undefined;
    let lab: PodLab;
    let pod: string;
    let volumeId: string;
    const hooks = `/run/berth-volumes-${handler}-${process.pid}`;

    before(async () => {
      mkdirSync(hooks);
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"\nhooks_dirs = ["${hooks}"]` });
      volumeId = await loadVolume(lab);
      pod = await lab.runPod();
    });
    afterEach(async (t) => {
      await lab.afterTest(t, [pod]);
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
      assert.deepEqual(mountsOfVolumes(), []);
    });
    after(async () => {
      await lab.close();
      await hugetlb?.[Symbol.asyncDispose]();
      rmSync(hooks, { recursive: true });
    });

    /** What berthd itself has mounted for volumes: nothing once the container is there. */
    const mountsOfVolumes = () =>
      readMounts().flatMap(({ mountPoint }) =>
        mountPoint.startsWith(join(lab.berthd.state, 'volumes')) ? [mountPoint] : [],
      );

    test('all layers of the image are there, read-only, and programs in it run', async () => {
      const id = await lab.start(pod, { mounts: [volume(), volume({ containerPath: '/volume/tmp' })] });
      assert.equal(await lab.exec(id, 'cat', '/volume/data/above', '/volume/data/below/file'), 'above\nbelow');
      assert.notEqual((await lab.tryExec(id, 'ls', '/volume/data/gone')).exitCode, 0);
      for (const path of ['/volume/new', '/volume/data/above', '/volume/tmp/x'])
        assert.match((await lab.tryExec(id, 'sh', '-c', `echo x > ${path}`)).text, /Read-only file system/, path);
      assert.equal(await lab.exec(id, '/volume/data/run'), 'ran');
      assert.match(await lab.exec(id, 'grep', ' /volume overlay', '/proc/mounts'), /\bro,nosuid,nodev\b/);
      assert.deepEqual(mountsOfVolumes(), []);
      const [mount] = (await lab.status(id)).mounts;
      assert.deepEqual([mount?.image?.image, mount?.readonly, mount?.hostPath], [VOLUME, true, '']);
      assert.match(mount?.image?.imageRef ?? '', /^example\.com\/volume@sha256:[0-9a-f]{64}$/);
    });

    test('options of the mount hold', async () => {
      const found = await lab.output(pod, {
        ...script('/volume/data/run 2>&1; true'),
        mounts: [volume({ mountOptions: ['noexec'] })],
      });
      assert.match(found, /Permission denied/);
      assert.match((await lab.refused(pod, { mounts: [volume({ mountOptions: ['rw'] })] })).details, /mount_options/);
    });

    test('a part of the image: links lead through the image, never out of it', async () => {
      for (const [path, probe, expected] of [
        ['data/below', 'cat /volume/file', 'below'],
        ['/data/inside', 'cat /volume/file', 'below'],
        ['data/absolute', 'cat /volume/passwd', 'of the image'],
        ['data/climbing', 'cat /volume/passwd', 'of the image'],
        ['data/a folder', 'ls -A /volume', ''],
        ['data/above', 'cat /volume', 'above'],
      ] as const) {
        const fields = { ...script(probe), mounts: [volume({ imageSubPath: path })] };
        assert.equal(await lab.output(pod, fields), expected, path);
      }
      for (const path of [
        'no/such',
        'data/above/x',
        'data/../data',
        '../etc',
        'data/magic',
        'data/loop',
        'data/fifo',
        '..',
        'a\0b',
      ]) {
        const refused = await lab.refused(pod, { mounts: [volume({ imageSubPath: path })] });
        assert.equal(refused.code, status.INVALID_ARGUMENT, refused.details);
        assert.match(refused.details, /ImageVolumeMountFailed: .*config\.mounts\[0\]\.image_sub_path/, path);
      }
    });

    test('what is no image volume is refused', async () => {
      for (const [more, details] of [
        [{ readonly: false }, /ImageVolumeMountFailed: config\.mounts\[0\]\.readonly/],
        [{ hostPath: '/etc' }, /ImageVolumeMountFailed: config\.mounts\[0\]\.host_path/],
        [{ propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL }, /config\.mounts\[0\]\.propagation/],
        [{ containerPath: '/' }, /config\.mounts\[0\]\.container_path/],
      ] as const)
        assert.match((await lab.refused(pod, { mounts: [volume(more)] })).details, details);
      const unknown = await lab.refused(pod, { mounts: [volume({ image: { image: 'example.com/none:1' } })] });
      assert.equal(unknown.code, status.NOT_FOUND);
      assert.match(unknown.details, /ImageVolumeMountFailed: config\.mounts\[0\]\.image\.image: .*pull it first/);
      const stray = { containerPath: '/x', hostPath: '/etc', imageSubPath: 'x' };
      assert.match((await lab.refused(pod, { mounts: [stray] })).details, /image_sub_path: is given without an image/);
    });

    test('an image stays while a container has it as a volume, also after kill -9', async () => {
      const id = await lab.start(pod, { mounts: [volume({ imageSubPath: 'data' })] });
      const remove = { image: { image: volumeId } };
      const imageSpec = { annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' };
      const request = { image: { ...imageSpec, ...remove.image } };
      const refused = await lab.berthd.fails(images.removeImage, request);
      assert.equal(refused.code, status.FAILED_PRECONDITION);
      assert.match(refused.details, new RegExp(`in use by container ${id}`));
      await lab.berthd.end('SIGKILL');
      await lab.berthd.start();
      assert.equal(await lab.exec(id, 'cat', '/volume/above'), 'above');
      await lab.berthd.fails(images.removeImage, request);
      await lab.berthd.call(runtime.removeContainer, { containerId: id });
      await lab.berthd.call(images.removeImage, request);
      assert.equal(await loadVolume(lab), volumeId);
    });

    test('killed in the middle of making the container, the next berthd takes the volume away', async () => {
      const namespaceOptions = { pid: NamespaceMode.CONTAINER, usernsOptions: MAPPED };
      const other = await lab.runPod(lab.podConfig({ linux: { securityContext: { namespaceOptions } } }));
      const flag = join(hooks, 'flag');
      const program = `#!/bin/sh\necho $$ > ${flag}.new\nmv ${flag}.new ${flag}\nsleep 1000\n`;
      writeFileSync(join(hooks, 'program'), program, { mode: 0o755 });
      const hook = { path: join(hooks, 'program'), args: ['program'], env: ['PATH=/usr/bin:/bin'] };
      const file = { version: '1.0.0', hook, when: { always: true }, stages: ['createRuntime'] };
      writeFileSync(join(hooks, 'slow.json'), JSON.stringify(file));
      for (const [sandbox, linux] of [
        [pod, {}],
        [other, { securityContext: { namespaceOptions } }],
      ] as const) {
        const lost = lab.create(sandbox, { mounts: [volume({ imageSubPath: 'data' })], linux });
        const failed = assert.rejects(lost);
        await eventually('the hook runs', () => (existsSync(flag) ? true : undefined));
        assert.equal(mountsOfVolumes().length, 1);
        await lab.berthd.end('SIGKILL');
        await failed;
        const hookPid = readFileSync(flag, 'utf8').trim();
        rmSync(flag);
        assert.ok(isAlive(hookPid), 'the runtime goes on without berthd');
        await lab.berthd.start();
        assert.deepEqual(mountsOfVolumes(), []);
        await eventually('the hook ends with its runtime', () => !isAlive(hookPid) || undefined);
      }
      rmSync(join(hooks, 'slow.json'));
      assert.equal(
        await lab.output(pod, { ...script('cat /volume/above'), mounts: [volume({ imageSubPath: 'data' })] }),
        'above',
      );
    });

    test('in a pod with a user namespace its files have the ids of the image', async () => {
      const namespaceOptions = { pid: NamespaceMode.CONTAINER, usernsOptions: MAPPED };
      const other = await lab.runPod(lab.podConfig({ linux: { securityContext: { namespaceOptions } } }));
      const found = await lab.output(other, {
        ...script('stat -c %u:%g /volume /volume/above; cat /volume/above'),
        mounts: [volume({ imageSubPath: 'data' })],
        linux: { securityContext: { namespaceOptions } },
      });
      assert.equal(found, '0:0\n0:0\nabove');
    });

    test('ten containers of one pod with the same volume', async () => {
      const found = await Promise.all(
        Array.from({ length: 10 }, (_, n) =>
          lab.output(pod, { metadata: { name: `ten-${n}` }, ...script('cat /volume/data/above'), mounts: [volume()] }),
        ),
      );
      assert.deepEqual(found, Array(10).fill('above'));
      assert.doesNotMatch(readFileSync('/proc/self/mounts', 'utf8'), /image-\d/);
    });
  });
}
