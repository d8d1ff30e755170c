import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab } from '../../test/fakes/images-lab.ts';
import type { MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { type FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import type { LiveImageSettings } from './image-settings.ts';
import type { Images } from './images.ts';

const never = new AbortController().signal;

let lab: ImagesLab;
let registry: FakeRegistry;
let root: string;
let layers: MemoryLayers;
let images: Images;

beforeEach(async () => {
  lab = await ImagesLab.open();
  ({ registry, root, layers, images } = lab);
});
afterEach(() => lab.close());

describe('Images.prune', () => {
  it('tells what belongs to nothing and why, and removes just that', async () => {
    registry.add('app', fakeImage(['used']), 'v1');
    for (const tag of ['v2', 'v3']) registry.add('app', fakeImage(['idle']), tag);
    const used = await images.pull(lab.name('app:v1'), undefined, never);
    const idle = await images.pull(lab.name('app:v2'), undefined, never);
    await images.pull(lab.name('app:v3'), undefined, never);
    const own = lab.build({ usersOf: (id) => (id === used.id ? ['container'] : []) });
    layers.layers.set('sha256:orphan', 7);
    layers.strayFolders.add('.tmp-1');
    const blob = `sha256-${'a'.repeat(64)}.partial`;
    await writeFile(join(root, 'image/ingest', blob), 'part');
    const expected = [
      ['layer', 'sha256:orphan', 7],
      ['folder', '.tmp-1', 0],
      ['blob', blob, 4],
    ];
    const shown = async (dryRun: boolean, unusedImages: boolean) =>
      (await own.prune({ dryRun, unusedImages })).map(({ kind, name: item, bytes }) => [kind, item, bytes]);
    assert.deepEqual(await shown(true, false), expected);
    const both = `${lab.name('app:v2')}, ${lab.name('app:v3')}`;
    assert.deepEqual(await shown(true, true), [['image', both, 4], ...expected]);
    assert.deepEqual(await shown(false, true), [['image', both, 4], ...expected]);
    assert.deepEqual(
      own.list().map(({ id }) => id),
      [used.id],
    );
    assert.deepEqual([layers.all().length, layers.strays(), await lab.inFlightFiles()], [1, [], []]);
    assert.deepEqual(await shown(true, true), []);
    assert.equal(idle.layers.length, 1);
  });

  it('spares what is pinned', async () => {
    registry.add('app', fakeImage(['idle']), 'v1');
    await images.pull(lab.name('app:v1'), undefined, never);
    images.follow(pinning([lab.name('app:v1')]));
    assert.deepEqual(await images.prune({ dryRun: true, unusedImages: true }), []);
  });
});

/** The settings that may change while berthd runs, with these images pinned. */
function pinning(pinnedImages: readonly string[]): LiveImageSettings {
  return { pinnedImages, maxParallelDownloads: 3, pullTimeoutMs: 60_000, namespacedAuthDir: '' };
}
