import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, suite, test } from 'node:test';

import { ImageServiceService as images, ListImagesRequest } from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, pushLayout, startRegistry, type TestRegistry } from '../fakes/images.ts';
import { patient } from '../harness/patience.ts';
import { kubeletMinor } from './kubelet.ts';
import { container, IMAGE, KubeletLab } from './kubelet-lab.ts';
import { until } from './until.ts';

suite('images', () => {
  let lab: KubeletLab;
  let registry: TestRegistry;
  let layout: string;
  let minor: number;

  before(async () => {
    minor = await kubeletMinor();
    registry = await startRegistry();
    layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    // Above its high mark the disk always is, so what no container uses goes.
    const config = {
      imageGCHighThresholdPercent: 1,
      imageGCLowThresholdPercent: 0,
      imageMinimumGCAge: '1s',
      evictionHard: { 'memory.available': '1Mi', 'imagefs.available': '1%' },
    };
    lab = await KubeletLab.start({ config, features: minor >= 31 && minor < 36 ? { ImageVolume: true } : {} });
  });
  after(async () => {
    await lab[Symbol.asyncDispose]();
    await registry.close();
    rmSync(layout, { recursive: true });
  });
  afterEach((test) => lab.afterTest(test));

  const push = async (name: string, content: string): Promise<string> => {
    const built = await buildBusyboxLayout(layout, { tag: name, files: { 'www/index.html': content } });
    return await pushLayout(built, registry, name);
  };

  test('a pod waits for an image that the registry does not have yet, and starts once it has', async () => {
    lab.run('pulled', [{ image: `${registry.host}/first:1` }]);
    const waiting = await lab.pod('pulled', 'to wait for its image', (pod) =>
      /ErrImagePull|ImagePullBackOff/.test(container(pod)?.state.waiting?.reason ?? ''),
    );
    assert.match(container(waiting)?.state.waiting?.message ?? '', /first:1/);
    const image = await push('first:1', 'first\n');
    lab.run('pulled', [{ image, imagePullPolicy: 'Always' }]);
    const pod = await lab.pod('pulled', 'to run', (seen) => container(seen)?.state.running !== undefined, 120_000);
    assert.equal(container(pod)?.image, image);
    assert.match(container(pod)?.imageID ?? '', /@sha256:/);
    assert.equal(await lab.output('pulled', 'cat', '/www/index.html'), 'first');
  });

  test('an image as a volume', { timeout: patient(200_000) }, async (context) => {
    if (minor < 31) return context.skip(`the kubelet is 1.${minor}: it has no image volumes`);
    const reference = await push('data:1', 'from an image\n');
    lab.run('image-volume', [{ volumeMounts: [{ name: 'data', mountPath: '/data', readOnly: true }] }], {
      volumes: [{ name: 'data', image: { reference, pullPolicy: 'IfNotPresent' } }],
    });
    await lab.ready('image-volume');
    assert.equal(await lab.output('image-volume', 'cat', '/data/www/index.html'), 'from an image');
    await lab.remove('image-volume');
  });

  // The kubelet looks at images every five minutes.
  test('images that no container uses are removed when the disk is full, others stay', {
    timeout: patient(500_000),
  }, async () => {
    const list = async (): Promise<string[]> => {
      const { images: found } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
      return found.flatMap(({ repoTags }) => repoTags);
    };
    lab.run('user', [{ image: `${registry.host}/first:1` }]);
    await lab.ready('user');
    await until('the image that nobody uses to go', 420_000, async () =>
      (await list()).includes(IMAGE) ? undefined : true,
    );
    assert.ok((await list()).includes(`${registry.host}/first:1`), 'what is used stays');
  });
});
