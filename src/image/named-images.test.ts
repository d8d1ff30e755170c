import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore } from '../../test/fakes/layer-folders.ts';
import { type FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import { isKind } from '../base/errors.ts';
import type { LiveImageSettings } from './image-settings.ts';
import type { Images } from './images.ts';

const never = new AbortController().signal;

let lab: ImagesLab;
let registry: FakeRegistry;
let store: MemoryImageStore;
let images: Images;

beforeEach(async () => {
  lab = await ImagesLab.open();
  ({ registry, store, images } = lab);
});
afterEach(() => lab.close());

describe('Images.find', () => {
  it('finds by id, prefix, tag in any spelling, and digest', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    const record = await images.pull(lab.name('app'), undefined, never);
    const hex = record.id.slice('sha256:'.length);
    const texts = [record.id, hex, hex.slice(0, 12), record.id.slice(0, 20), lab.name('app'), lab.name('app:latest')];
    for (const text of [...texts, lab.name(`app@${image.manifest.digest}`)])
      assert.equal(images.find(text), record, text);
    for (const text of ['busybox', hex.slice(0, 3), lab.name('app:v2'), 'f'.repeat(64)]) {
      assert.equal(images.find(text), undefined, text);
    }
    assert.throws(
      () => images.find('Bad//Name'),
      (err) => isKind(err, 'invalid'),
    );
  });

  it('calls an id prefix of two images ambiguous', () => {
    for (const digit of ['1', '2']) {
      const config = { user: '', env: [], entrypoint: [], cmd: [], workingDir: '', stopSignal: '' };
      store.images.put({
        id: `sha256:abcd${digit.repeat(60)}`,
        tags: [],
        repoDigests: [],
        sizeBytes: 1,
        config: { ...config, volumes: [], labels: {}, exposedPorts: [] },
        layers: [],
        createdAtUs: 0,
        annotations: {},
      });
    }
    const restarted = lab.build();
    assert.throws(() => restarted.find('abcd'), /ambiguous: 2 images/);
    assert.ok(restarted.find('abcd1')?.id.startsWith('sha256:abcd1'));
  });

  it('pins by name, glob and keyword, also what is there already', async () => {
    registry.add('team/app', fakeImage(['a']), 'v1');
    await images.pull(lab.name('team/app:v1'), undefined, never);
    const patterns: [string, boolean][] = [
      [lab.name('team/app:v1'), true],
      [lab.name('team/*'), true],
      ['*team/app*', true],
      ['team/app', false],
      [lab.name('team/app:v1*v1'), false],
    ];
    for (const [pattern, expected] of patterns) {
      images.follow(pinning([pattern]));
      assert.equal(images.list()[0]?.pinned, expected, pattern);
    }
    assert.equal(lab.build({}, ['*']).list()[0]?.pinned, true);
  });
});

/** The settings that may change while berthd runs, with these images pinned. */
function pinning(pinnedImages: readonly string[]): LiveImageSettings {
  return { pinnedImages, maxParallelDownloads: 3, pullTimeoutMs: 60_000, namespacedAuthDir: '' };
}
