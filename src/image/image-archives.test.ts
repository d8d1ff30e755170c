import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { fakeImage } from '../../test/fakes/registry.ts';
import type { ArchiveImage } from './image-archives.ts';

const never = new AbortController().signal;

let lab: ImagesLab;
let root: string;
let layers: MemoryLayers;
let store: MemoryImageStore;

beforeEach(async () => {
  lab = await ImagesLab.open();
  ({ root, layers, store } = lab);
});
afterEach(() => lab.close());

describe('Images.load', () => {
  const archiveOf = async (image: ReturnType<typeof fakeImage>, more: Partial<ArchiveImage> = {}) => {
    const paths = await Promise.all(
      image.layers.map(async (layer, at) => {
        const path = join(root, `layer-${at}`);
        await writeFile(path, layer.bytes);
        return { path, compression: 'gzip' as const, diffId: image.diffIds[at] ?? '' };
      }),
    );
    let disposed = 0;
    const dispose = async (): Promise<void> => {
      disposed += 1;
    };
    const one = { references: ['app:v1'], tags: [], configBytes: image.config.bytes, layers: paths, dispose, ...more };
    return { images: lab.build({ readArchive: async () => [one] }), disposed: () => disposed };
  };

  it('takes in an archive under its names', async () => {
    const image = fakeImage(['a', 'b']);
    const archive = await archiveOf(image, { manifestDigest: image.manifest.digest });
    const loaded = await archive.images.load('/tmp/x.tar', '', never);
    assert.deepEqual(loaded, [{ id: image.config.digest, names: ['docker.io/library/app:v1'] }]);
    const record = archive.images.find('app:v1');
    assert.deepEqual(record?.repoDigests, [`docker.io/library/app@${image.manifest.digest}`]);
    assert.equal(record?.id, image.config.digest);
    assert.equal(archive.disposed(), 1);
  });

  it('tells only the names that were loaded, and takes another name for those of the archive', async () => {
    const image = fakeImage(['a', 'b']);
    const archive = await archiveOf(image, { tags: ['v2'], manifestDigest: image.manifest.digest });
    await archive.images.load('/tmp/x.tar', '', never);
    const [again] = await archive.images.load('/tmp/x.tar', 'example.com/web', never);
    assert.deepEqual(again?.names, ['example.com/web:v1', 'example.com/web:v2']);
    assert.deepEqual(archive.images.find('example.com/web:v1')?.tags, [
      'docker.io/library/app:v1',
      'localhost/x:v2',
      'example.com/web:v1',
      'example.com/web:v2',
    ]);
    await rejectsWith(archive.images.load('/tmp/x.tar', 'A b', never), 'invalid', /^name: "A b" is not/);
    assert.equal(archive.disposed(), 3);
  });

  it('refuses layers that are not those of the config, and leaves nothing', async () => {
    const image = fakeImage(['a', 'b']);
    const archive = await archiveOf(image, { layers: [] });
    await rejectsWith(archive.images.load('/tmp/x.tar', '', never), 'precondition', /app:v1: the archive's layers/);
    const other = await archiveOf(fakeImage(['a'], { architecture: 's390x' }));
    await rejectsWith(other.images.load('/tmp/x.tar', '', never), 'precondition', /linux\/s390x/);
    assert.deepEqual([layers.all(), store.images.all(), archive.disposed()], [[], [], 1]);
  });
});
