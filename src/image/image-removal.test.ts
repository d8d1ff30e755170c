import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';

import type { FakeMounts } from '../../test/fakes/image-mounts.ts';
import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { type FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import type { Images } from './images.ts';

const never = new AbortController().signal;

let lab: ImagesLab;
let registry: FakeRegistry;
let layers: MemoryLayers;
let store: MemoryImageStore;
let mounts: FakeMounts;
let images: Images;

beforeEach(async () => {
  lab = await ImagesLab.open();
  ({ registry, layers, store, mounts, images } = lab);
});
afterEach(() => lab.close());

describe('Images.remove', () => {
  it('removes the image with all names, and the layers that no other has', async () => {
    const [one, two] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('one', one, 'v1');
    registry.add('one', one, 'v2');
    registry.add('two', two, 'v1');
    for (const text of ['one:v1', 'one:v2', 'two:v1']) await images.pull(lab.name(text), undefined, never);
    assert.equal(images.list().length, 2);
    lab.users = ['container-1'];
    await rejectsWith(images.remove(lab.name('one:v1')), 'precondition', /in use by container container-1/);
    lab.users = [];
    await images.remove(lab.name('one:v2'));
    assert.equal(images.find(lab.name('one:v1')), undefined);
    assert.deepEqual([...layers.layers.keys()].sort(), [...two.diffIds].sort());
    await images.remove(lab.name('one:v1'));
    await images.remove(two.config.digest);
    assert.deepEqual([layers.all(), store.images.all()], [[], []]);
  });

  it('does not have a pull wait for the space of what was removed, nor who has no patience', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    await images.pull(lab.name('app'), undefined, never);
    const gate = Promise.withResolvers<void>();
    layers.gate = async (call) => {
      if (call.startsWith('remove')) await gate.promise;
    };
    const patience = new AbortController();
    const removed = images.remove(lab.name('app'), patience.signal);
    await images.pull(lab.name('app'), undefined, never);
    assert.deepEqual([layers.all().map((layer) => layer.diffId), images.list().length], [image.diffIds, 1]);
    patience.abort(new Error('waits no longer'));
    await removed;
    const patient = images.remove(lab.name('app'));
    gate.resolve();
    await patient;
    assert.deepEqual([layers.all(), images.list()], [[], []]);
  });

  it('tells who waits that the space could not be freed', async () => {
    registry.add('app', fakeImage(['x']), 'latest');
    await images.pull(lab.name('app'), undefined, never);
    layers.gate = async (call) => {
      if (call.startsWith('remove')) throw new Error('the disk is broken');
    };
    await assert.rejects(images.remove(lab.name('app')), /is removed, and not all of its layers are/);
    assert.deepEqual(images.list(), []);
    await images.remove(lab.name('app'));
  });

  it('spares layers that something runs on, whatever became of their image', async () => {
    layers.layers.set('sha256:running', 1);
    layers.layers.set('sha256:orphan', 1);
    layers.mounted.add('sha256:running');
    const restarted = lab.build();
    await restarted.start();
    assert.deepEqual(
      layers.all().map((layer) => layer.diffId),
      ['sha256:running'],
    );
    assert.deepEqual(await restarted.prune({ dryRun: true, unusedImages: true }), []);
    await restarted.close();
  });

  it('cannot be removed while it is mounted', async () => {
    registry.add('app', fakeImage(['a']), 'v1');
    const { id } = await images.pull(lab.name('app:v1'), undefined, never);
    mounts.mount(images.find(id) ?? assert.fail(), '/mnt/app');
    await rejectsWith(
      images.remove(lab.name('app:v1')),
      'precondition',
      /is mounted at \/mnt\/app; berth image unmount \/mnt\/app/,
    );
    assert.deepEqual(await images.prune({ dryRun: true, unusedImages: true }), []);
    assert.deepEqual(images.unmount(lab.name('app:v1')), ['/mnt/app']);
    await rejectsWith((async () => images.unmount('/mnt/app'))(), 'notFound', /nothing is mounted at/);
    await images.remove(lab.name('app:v1'));
  });
});
