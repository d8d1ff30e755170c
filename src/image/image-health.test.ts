import assert from 'node:assert/strict';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { type FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import type { Notice } from '../base/notices.ts';
import type { Images } from './images.ts';

const never = new AbortController().signal;

let lab: ImagesLab;
let registry: FakeRegistry;
let root: string;
let layers: MemoryLayers;
let store: MemoryImageStore;
let images: Images;

beforeEach(async () => {
  lab = await ImagesLab.open();
  ({ registry, root, layers, store, images } = lab);
});
afterEach(() => lab.close());

describe('images that are damaged, and a restart', () => {
  it('has the owner of the node hear of damage and of its end', async () => {
    registry.add('app', fakeImage(['b', 'c']), 'v2');
    const lost = await images.pull(lab.name('app:v2'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    const told: Notice[] = [];
    const restarted = lab.build({ notices: { tell: (notice) => void told.push(notice) } });
    await restarted.start();
    await restarted.pull(lab.name('app:v2'), undefined, never);
    assert.deepEqual(
      told.map(({ reason }) => reason),
      ['StorageDamaged', 'StorageRepaired'],
    );
    for (const { message } of told) assert.ok(message.includes(lab.name('app:v2')), message);
    await restarted.close();
  });

  it('keeps what it has over a restart, and what is good of damaged images until a pull mends them', async () => {
    registry.add('app', fakeImage(['a']), 'v1');
    registry.add('app', fakeImage(['b', 'c']), 'v2');
    const kept = await images.pull(lab.name('app:v1'), undefined, never);
    const lost = await images.pull(lab.name('app:v2'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    layers.layers.set('sha256:orphan', 1);
    await writeFile(join(root, 'image/ingest/left'), 'over');
    const restarted = lab.build();
    await restarted.start();
    assert.deepEqual(restarted.list(), [kept]);
    const onDisk = (): string[] => layers.all().map((layer) => layer.diffId);
    assert.deepEqual(onDisk(), [...kept.layers, lost.layers[1]]);
    assert.deepEqual(await lab.inFlightFiles(), []);
    const [damaged] = await restarted.check([lab.name('app:v2')], never);
    assert.deepEqual([damaged?.id, damaged?.problems.length], [lost.id, 1]);
    const prunable = await restarted.prune({ dryRun: true, unusedImages: false, damagedImages: true });
    assert.deepEqual(
      prunable.map(({ kind, name: item }) => [kind, item]),
      [['image', lab.name('app:v2')]],
    );
    layers.calls.length = 0;
    const mended = await restarted.pull(lab.name('app:v2'), undefined, never);
    assert.deepEqual([mended.id, mended.tags], [lost.id, [lab.name('app:v2')]]);
    assert.equal(layers.calls.filter((call) => call.startsWith('unpack')).length, 1);
    assert.deepEqual(await restarted.prune({ dryRun: true, unusedImages: false }), []);
    await restarted.close();
  });

  it('removes what a killed process left of judging signatures', async () => {
    const folder = join(root, 'image/gpgv/gpgv-left');
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'content'), 'x');
    const next = lab.build();
    await next.start();
    assert.ok(!(await readdir(join(root, 'image'))).includes('gpgv'));
    await next.close();
  });

  it('prunes what is left of a damaged image, unless something uses it', async () => {
    registry.add('app', fakeImage(['b', 'c']), 'v2');
    const lost = await images.pull(lab.name('app:v2'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    lab.users = ['container'];
    const restarted = lab.build();
    await restarted.start();
    const all = { dryRun: false, unusedImages: true, damagedImages: true };
    assert.deepEqual(await restarted.prune(all), []);
    lab.users = [];
    assert.deepEqual(await restarted.prune({ dryRun: false, unusedImages: true }), []);
    assert.equal((await restarted.prune(all)).length, 1);
    assert.deepEqual([layers.all(), store.rows.size, await readdir(join(root, 'image/configs'))], [[], 0, []]);
    await restarted.close();
  });

  it('leaves a name to the image that got it while the one that had it was damaged', async () => {
    const [first, second] = [fakeImage(['a']), fakeImage(['b'])];
    registry.add('app', first, 'v1');
    const lost = await images.pull(lab.name('app:v1'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    const restarted = lab.build();
    await restarted.start();
    registry.add('app', second, 'v1');
    const other = await restarted.pull(lab.name('app:v1'), undefined, never);
    // Whatever comes first out of the store.
    const again = lab.build();
    await again.start();
    assert.equal(again.find(lab.name('app:v1'))?.id, other.id);
    await again.pull(lab.name(`app@${first.manifest.digest}`), undefined, never);
    assert.deepEqual([again.find(lab.name('app:v1'))?.id, again.find(lost.id)?.tags], [other.id, []]);
    await restarted.close();
    await again.close();
  });

  it('takes images that are found damaged out of sight', async () => {
    registry.add('app', fakeImage(['base', 'a']), 'v1');
    registry.add('app', fakeImage(['base', 'b']), 'v2');
    const [one, two] = [
      await images.pull(lab.name('app:v1'), undefined, never),
      await images.pull(lab.name('app:v2'), undefined, never),
    ];
    assert.deepEqual(
      (await images.check([], never)).map(({ problems }) => problems),
      [[], []],
    );
    layers.damaged.set(one.layers[0] ?? '', 'a file is gone');
    const [checked] = await images.check([lab.name('app:v1')], never);
    assert.deepEqual(
      [checked?.names[0], checked?.problems],
      [lab.name('app:v1'), [`layer ${one.layers[0]}: a file is gone`]],
    );
    assert.deepEqual(images.list(), []);
    await images.pull(lab.name('app:v1'), undefined, never);
    assert.deepEqual(
      images
        .list()
        .map(({ id }) => id)
        .sort(),
      [one.id, two.id].sort(),
    );
    await rejectsWith(images.check([lab.name('app:v3')], never), 'notFound', /is not here/);
  });
});
