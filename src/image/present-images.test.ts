import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { type FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
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

describe('Images.pull of what is here', () => {
  /** What the registry is asked while `work` is done. */
  const askedDuring = async (work: () => Promise<unknown>): Promise<string[]> => {
    const before = registry.seen.length;
    await work();
    return registry.seen.slice(before).map(({ method, url }) => `${method} ${url}`);
  };

  it('asks no registry by digest, not after a restart either', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'v1');
    const record = await images.pull(lab.name('app:v1'), undefined, never);
    const byDigest = lab.name(`app@${image.manifest.digest}`);
    for (const facade of [images, lab.build()]) {
      const auth = { username: 'me', password: 'SECRET' };
      const asked = await askedDuring(async () => {
        assert.deepEqual(await facade.pull(byDigest, undefined, never), record);
        assert.deepEqual(await facade.pull(byDigest, auth, never), record);
      });
      assert.deepEqual(asked, []);
    }
    assert.equal(lab.pulls.length, 5);
  });

  it('asks where a tag leads, and nothing else as long as that is here', async () => {
    const [first, second] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('app', second, 'v2');
    registry.add('app', first, 'v1');
    const pull = async (tag: string) => await images.pull(lab.name(`app:${tag}`), undefined, never);
    const [record, other] = [await pull('v1'), await pull('v2')];
    assert.deepEqual(await askedDuring(async () => assert.equal(await pull('v1'), record)), [
      'HEAD /v2/app/manifests/v1',
    ]);
    registry.addDocument('app', second.manifest, 'v1');
    const moved = await askedDuring(async () => assert.equal((await pull('v1')).id, other.id));
    assert.deepEqual(moved, ['HEAD /v2/app/manifests/v1', 'GET /v2/app/manifests/v1']);
    assert.deepEqual(images.find(other.id)?.tags, [lab.name('app:v2'), lab.name('app:v1')]);
    assert.deepEqual(images.find(record.id)?.tags, []);
    assert.deepEqual(lab.build().list(), images.list());
  });

  it('asks for the manifest where the other question is not answered', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    const record = await images.pull(lab.name('app:v1'), undefined, never);
    const answers: (() => void)[] = [() => undefined];
    registry.misbehave = (req, res) => {
      if (req.method === 'HEAD') return Boolean(res.writeHead(answers.length % 2 === 0 ? 405 : 200).end());
      return false;
    };
    for (let again = 0; again < 2; again += 1) {
      const asked = await askedDuring(async () =>
        assert.equal(await images.pull(lab.name('app:v1'), undefined, never), record),
      );
      assert.deepEqual(asked, ['HEAD /v2/app/manifests/v1', 'GET /v2/app/manifests/v1']);
      answers.pop();
    }
  });

  it('lets nobody have by digest what only the credentials of others have led to', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'v1');
    registry.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
    const auth = { username: 'me', password: 'SECRET' };
    const byDigest = lab.name(`app@${image.manifest.digest}`);
    const record = await images.pull(lab.name('app:v1'), auth, never);
    assert.deepEqual(await askedDuring(() => images.pull(byDigest, auth, never)), []);
    await rejectsWith(images.pull(byDigest, undefined, never), 'permission', /without credentials/);
    const wrong = { username: 'me', password: 'wrong' };
    await rejectsWith(images.pull(byDigest, wrong, never), 'permission', /with the credentials/);
    // Another process does not know whom the registry has served; it asks once for each.
    const restarted = lab.build();
    assert.equal((await askedDuring(() => restarted.pull(byDigest, auth, never))).length, 2);
    assert.deepEqual(await askedDuring(() => restarted.pull(byDigest, auth, never)), []);
    registry.auth = { kind: 'none' };
    assert.deepEqual(await askedDuring(() => images.pull(byDigest, undefined, never)), [
      `GET /v2/app/manifests/${image.manifest.digest}`,
    ]);
    assert.deepEqual(await askedDuring(() => images.pull(byDigest, undefined, never)), []);
    assert.equal(images.find(record.id)?.openDigests?.length, 1);
    await restarted.close();
  });

  it('asks again when a layer is gone, and obeys the policy and the rules as they are now', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'v1');
    const record = await images.pull(lab.name('app:v1'), undefined, never);
    const byDigest = lab.name(`app@${image.manifest.digest}`);
    layers.layers.clear();
    assert.ok((await askedDuring(() => images.pull(byDigest, undefined, never))).length > 2);
    assert.deepEqual(layers.all().length, record.layers.length);
    const { openDigests: _, ...older } = store.images.all()[0] ?? assert.fail();
    store.images.put(older);
    const restarted = lab.build();
    for (const count of [2, 0]) {
      assert.equal((await askedDuring(() => restarted.pull(byDigest, undefined, never))).length, count);
    }
    await restarted.close();
    await writeFile(join(root, 'registries.conf'), `[[registry]]\nlocation = "${registry.host}"\nblocked = true`);
    await rejectsWith(images.pull(byDigest, undefined, never), 'permission', /is blocked by/);
    await writeFile(join(root, 'registries.conf'), '');
    await writeFile(join(root, 'policy.json'), '{"default": [{"type": "reject"}]}');
    await rejectsWith(images.pull(byDigest, undefined, never), 'permission', /^SignatureValidationFailed/);
  });
});
