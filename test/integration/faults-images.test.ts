/** Faults at every step of what happens to images, and to the configuration. */

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import {
  ImageServiceService as images,
  ListImagesRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../proto/gen/cri/api.ts';
import { RELOAD_PLACES } from '../../src/daemon/live-parts.ts';
import { REMOVE_PLACES } from '../../src/image/image-removal.ts';
import { PULL_PLACES } from '../../src/image/pull.ts';
import { hostArchitecture } from '../fakes/images.ts';
import { FakeRegistry, fakeImage } from '../fakes/registry.ts';
import { tarBytes } from '../fakes/tar-bytes.ts';
import { eventually } from '../harness/cri-lab.ts';
import { FaultLab } from '../harness/fault-lab.ts';
import type { PodLab } from '../harness/pod-lab.ts';

suite('faults of images', () => {
  let faultLab: FaultLab;
  let lab: PodLab;
  let registry: FakeRegistry;
  let reference: string;
  before(async () => {
    registry = await FakeRegistry.start();
    const layer = (name: string): string =>
      tarBytes([{ name: `${name}/` }, { name: `${name}/data`, data: name.repeat(2_000) }]).toString('latin1');
    registry.add('app', fakeImage([layer('one'), layer('two')], { architecture: hostArchitecture }), 'v1');
    reference = `${registry.host}/app:v1`;
    faultLab = await FaultLab.start({ limitMs: 60_000, scenes: 2 });
    lab = faultLab.lab;
  });
  after(async () => {
    await registry.close();
    await faultLab.close();
  });

  const pull = async (timeoutMs?: number): Promise<void> => {
    await lab.berthd.call(images.pullImage, PullImageRequest.create({ image: { image: reference } }), timeoutMs);
  };
  const remove = async (timeoutMs?: number): Promise<void> => {
    await lab.berthd.call(images.removeImage, RemoveImageRequest.create({ image: { image: reference } }), timeoutMs);
  };
  const listed = async (): Promise<string[]> =>
    (await lab.berthd.call(images.listImages, ListImagesRequest.create())).images.flatMap(({ repoTags }) => repoTags);
  const layers = (): number =>
    readdirSync(join(lab.berthd.root, 'image/layers')).filter((name) => !/^\./.test(name)).length;

  test('PullImage', async (t) => {
    await faultLab.run(t, {
      name: 'PullImage',
      pipelines: [],
      untilRestart: /\/image\/(layers|ingest)\//,
      // A blob that is whole: the next pull may need it.
      kept: /\/image\/ingest\/sha256-[0-9a-f]{64}$/,
      places: PULL_PLACES,
      prepare: async () => undefined,
      ask: async (_, timeoutMs) => await pull(timeoutMs),
      async verify() {
        assert.ok((await listed()).includes(reference));
        assert.equal(layers(), 3);
      },
      clean: async () => await remove(),
    });
  });

  test('RemoveImage', async (t) => {
    await faultLab.run(t, {
      name: 'RemoveImage',
      pipelines: [],
      untilRestart: /\/image\/(layers|l|configs)\//,
      places: REMOVE_PLACES,
      prepare: async () => await pull(),
      ask: async (_, timeoutMs) => await remove(timeoutMs),
      async verify() {
        assert.ok(!(await listed()).includes(reference));
      },
    });
  });

  test('a reload of the configuration: one that fails is told and changes nothing for pods; the next one works', async () => {
    const reload = async (words: string): Promise<void> => {
      const told = lab.berthd.logged(words, 1);
      process.kill(lab.berthd.pid, 'SIGHUP');
      await told;
    };
    for (const place of RELOAD_PLACES) {
      for (const phase of ['before', 'after'] as const) {
        faultLab.faults.arm({ place, phase, action: 'error' });
        await reload('configuration not reloaded');
        const killed = faultLab.faults.arm({ place, phase, action: 'kill' });
        process.kill(lab.berthd.pid, 'SIGHUP');
        await eventually('it is killed', () => killed.hasStruck || undefined);
        await lab.berthd.end('SIGKILL');
        await lab.berthd.start();
        await reload('configuration reloaded');
        assert.deepEqual(await listed(), [lab.image]);
      }
    }
  });
});
