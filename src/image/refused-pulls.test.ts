import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import {
  answerError,
  describeBlob,
  FakeRegistry,
  fakeArtifact,
  fakeBlob,
  fakeImage,
  fakeIndex,
} from '../../test/fakes/registry.ts';
import type { ErrorKind } from '../base/errors.ts';
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

describe('Images.pull of what cannot be had', () => {
  /** Answers requests for the layer of an image with a redirect. */
  const redirectLayers = (location: string): void => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    registry.misbehave = (req, res) => {
      if (req.url?.includes(image.layers[0]?.digest ?? '') !== true) return false;
      res.writeHead(307, { location }).end();
      return true;
    };
  };
  const refused: [string, ErrorKind, RegExp, () => void][] = [
    ['an unknown tag', 'notFound', /^pull .*manifest latest of .*app: not found \(MANIFEST_UNKNOWN\)/, () => {}],
    [
      'another platform only',
      'notFound',
      /no image for linux\/amd64; it offers linux\/s390x/,
      () => {
        const other = fakeImage(['x'], { architecture: 's390x' });
        registry.addDocument('app', fakeIndex([{ blob: other.manifest, platform: 'linux/s390x' }]), 'latest');
      },
    ],
    [
      'a config of another platform',
      'precondition',
      /image for linux\/s390x, and this machine is linux\/amd64/,
      () => {
        registry.add('app', fakeImage(['x'], { architecture: 's390x' }), 'latest');
      },
    ],
    [
      'garbage',
      'precondition',
      /manifest latest of .* is not JSON/,
      () => {
        registry.misbehave = (_req, res) => {
          res.end('<html>welcome to the hotel</html>');
          return true;
        };
      },
    ],
    [
      'an empty object',
      'precondition',
      /not clearly one of/,
      () => {
        registry.addDocument('app', fakeBlob({}, 'application/json'), 'latest');
      },
    ],
    [
      'a schema 1 manifest',
      'precondition',
      /schema 1/,
      () => {
        registry.addDocument('app', fakeBlob({ schemaVersion: 1, fsLayers: [] }, 'application/json'), 'latest');
      },
    ],
    [
      'both an index and a manifest',
      'precondition',
      /not clearly one of/,
      () => {
        const { manifest } = fakeImage(['x'], { manifest: { manifests: [] } });
        registry.addDocument('app', manifest, 'latest');
      },
    ],
    [
      'an artifact with a file that leads out of it',
      'precondition',
      /artifact application\/vnd\.example\.model\): its file "\.\.\/x" has "\.\."/,
      () => registry.add('app', fakeArtifact([{ name: '../x', bytes: Buffer.from('x') }]), 'latest'),
    ],
    [
      'a foreign layer',
      'precondition',
      /is foreign/,
      () => {
        const layerType = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
        registry.add('app', fakeImage(['x'], { layerType }), 'latest');
      },
    ],
    [
      'fewer layers than diff ids',
      'precondition',
      /manifest has 0 layers, and the config 1/,
      () => {
        registry.add('app', fakeImage(['x'], { manifest: { layers: [] } }), 'latest');
      },
    ],
    [
      'a digest that is a path',
      'precondition',
      /malformed at "layers\.0\.digest"/,
      () => {
        const bad = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: 'sha256:../../etc', size: 1 };
        registry.add('app', fakeImage(['x'], { manifest: { layers: [bad] } }), 'latest');
      },
    ],
    [
      'a truncated layer',
      'unavailable',
      /ends after 3 of [0-9]+ bytes/,
      () => {
        const image = fakeImage(['x']);
        registry.add('app', image, 'latest');
        registry.misbehave = (req, res) => {
          if (!req.url?.endsWith(image.layers[0]?.digest ?? '')) return false;
          res.end(image.layers[0]?.bytes.subarray(0, 3));
          return true;
        };
      },
    ],
    [
      'a layer of the right size with other bytes',
      'unavailable',
      /blob sha256:.* has digest sha256:/,
      () => {
        const image = fakeImage(['x']);
        registry.add('app', image, 'latest');
        registry.misbehave = (req, res) => {
          if (!req.url?.endsWith(image.layers[0]?.digest ?? '')) return false;
          res.end(Buffer.alloc(image.layers[0]?.size ?? 0));
          return true;
        };
      },
    ],
    [
      'a config of another size',
      'unavailable',
      /config sha256:.* has not the 1 bytes/,
      () => {
        const { config } = fakeImage(['x']);
        registry.add('app', fakeImage(['x'], { manifest: { config: { ...describeBlob(config), size: 1 } } }), 'latest');
      },
    ],
    [
      'a layer of another diff id',
      'precondition',
      /unpack layer sha256:.*: layer unpacks to/,
      () => {
        const [one, two] = [fakeImage(['x']), fakeImage(['y'])];
        const mixed = fakeImage(['x'], {
          manifest: { layers: (JSON.parse(two.manifest.bytes.toString()) as { layers: unknown[] }).layers },
        });
        registry.add('app', two);
        registry.add('app', one);
        registry.add('app', { ...mixed, layers: two.layers }, 'latest');
      },
    ],
    [
      'indexes in indexes without end',
      'precondition',
      /more than 4 indexes in each other/,
      () => {
        let blob = fakeImage(['x']).manifest;
        for (let depth = 0; depth < 6; depth += 1) {
          blob = fakeIndex([{ blob, platform: 'linux/amd64' }]);
          registry.addDocument('app', blob, 'latest');
        }
      },
    ],
    [
      'an index that leads to itself',
      'unavailable',
      /manifest sha256:.*: content has digest sha256:/,
      () => {
        const index = fakeIndex([{ blob: fakeImage(['x']).manifest, platform: 'linux/amd64' }]);
        registry.misbehave = (_req, res) => {
          res.writeHead(200, { 'content-type': index.mediaType }).end(index.bytes);
          return true;
        };
      },
    ],
    [
      'a manifest of 100 MB',
      'unavailable',
      /manifest latest of .*: answer is larger than 4194304 bytes/,
      () => {
        registry.misbehave = (_req, res) => {
          res.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' });
          const part = Buffer.alloc(1_000_000, ' ');
          let left = 100;
          const more = (): void => {
            while (left > 0 && !res.destroyed) {
              left -= 1;
              if (!res.write(part)) return void res.once('drain', more);
            }
            res.end();
          };
          more();
          return true;
        };
      },
    ],
    [
      'a manifest that is one by its prototype only',
      'precondition',
      /not clearly one of/,
      () => {
        const { manifest } = fakeImage(['x']);
        const bytes = Buffer.from(`{"schemaVersion":2,"__proto__":${String(manifest.bytes)}}`);
        registry.addDocument('app', fakeBlob(bytes, manifest.mediaType), 'latest');
      },
    ],
    [
      'a layer that its manifest calls larger than it is',
      'unavailable',
      /ends after [0-9]+ of [0-9]+ bytes/,
      () => {
        const image = fakeImage(['x']);
        const [layer = image.config] = image.layers;
        const manifest = { layers: [{ ...describeBlob(layer), size: layer.size + 1 }] };
        registry.add('app', fakeImage(['x'], { manifest }), 'latest');
      },
    ],
    [
      'a layer that its manifest calls smaller than it is',
      'unavailable',
      /is longer than the [0-9]+ bytes that its manifest says/,
      () => {
        const image = fakeImage(['x']);
        const [layer = image.config] = image.layers;
        registry.add(
          'app',
          fakeImage(['x'], { manifest: { layers: [{ ...describeBlob(layer), size: 3 }] } }),
          'latest',
        );
      },
    ],
    [
      'a layer that is a file of this machine',
      'unavailable',
      /redirect to something that is no URL/,
      () => redirectLayers('file:///etc/shadow'),
    ],
    ['a layer that is always elsewhere', 'unavailable', /more than 5 redirects/, () => redirectLayers('?again')],
    [
      'a dead registry',
      'unavailable',
      /^RegistryUnavailable: pull .*status 503/,
      () => {
        registry.misbehave = (_req, res) => {
          answerError(res, 503, 'DOWN');
          return true;
        };
      },
    ],
    [
      'a rate limit',
      'exhausted',
      /^RegistryUnavailable: pull .*rate limit/,
      () => {
        registry.misbehave = (_req, res) => {
          answerError(res, 429, 'TOOMANYREQUESTS');
          return true;
        };
      },
    ],
  ];
  const breaksOff = new Set(['a truncated layer', 'a layer that its manifest calls larger than it is']);
  for (const [what, kind, words, arrange] of refused) {
    it(`refuses ${what}`, async () => {
      arrange();
      await rejectsWith(images.pull(lab.name('app'), undefined, never), kind, words);
      assert.deepEqual([images.list(), layers.all(), store.images.all()], [[], [], []]);
      assert.deepEqual(await readdir(join(root, 'image/configs')), []);
      // What ended too early may go on with the next pull, for an hour.
      const kept = await lab.inFlightFiles();
      assert.equal(kept.length, breaksOff.has(what) ? 1 : 0, kept.join());
    });
  }

  it('counts failures by reasons that alerts can be made of', async () => {
    await assert.rejects(images.pull(lab.name('app:none'), undefined, never));
    for (const status of [503, 429]) {
      registry.misbehave = (_req, res) => {
        answerError(res, status, 'NO');
        return true;
      };
      await assert.rejects(images.pull(lab.name('app:v1'), undefined, never));
    }
    await writeFile(join(root, 'policy.json'), '{"default": [{"type": "reject"}]}');
    await assert.rejects(images.pull(lab.name('app:v1'), undefined, never));
    assert.deepEqual(lab.reasons, ['not-found', 'registry-unavailable', 'rate-limited', 'untrusted']);
  });

  it('refuses a bad reference before it asks anyone', async () => {
    await rejectsWith(images.pull('Not/Valid!', undefined, never), 'invalid', /^image\.image/);
    assert.equal(registry.seen.length, 0);
  });

  it('says that nothing listens there', async () => {
    const { host } = registry;
    await registry.close();
    await rejectsWith(images.pull(`${host}/app`, undefined, never), 'unavailable', /^RegistryUnavailable: .*refused/);
    lab.registry = await FakeRegistry.start();
  });
});
