import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';

import { FakeMounts } from '../../test/fakes/image-mounts.ts';
import { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import {
  answerError,
  describeBlob,
  type FakeBlob,
  FakeRegistry,
  fakeArtifact,
  fakeBlob,
  fakeImage,
  fakeIndex,
} from '../../test/fakes/registry.ts';
import { systemClock } from '../base/clock.ts';
import { BerthError, describe as chain, type ErrorKind, isKind } from '../base/errors.ts';
import { type Logger, silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import type { ArchiveImage } from './image-archives.ts';
import type { LiveImageSettings } from './image-settings.ts';
import { Images, type ImagesDeps } from './images.ts';
import { RegistryClient } from './registry-client.ts';

const never = new AbortController().signal;

let registry: FakeRegistry;
let root: string;
let layers: MemoryLayers;
let store: MemoryImageStore;
let users: string[];
let pulls: [string, number][];
let reasons: string[];
let images: Images;
let mounts: FakeMounts;

function build(
  more: Partial<ImagesDeps> = {},
  pinnedImages: readonly string[] = [],
  settings: Partial<ImagesDeps['settings']> = {},
): Images {
  return new Images({
    root,
    settings: {
      registriesConf: join(root, 'registries.conf'),
      registriesConfDir: '',
      shortNameAliases: '',
      hostsDirs: [],
      certsDirs: [],
      namespacedAuthDir: '',
      signaturePolicy: join(root, 'policy.json'),
      signaturePolicyMayBeMissing: true,
      signaturePolicyDir: '',
      lookasideDir: '',
      authFile: '',
      pinnedImages,
      maxParallelDownloads: 3,
      pullTimeoutMs: 20_000,
      ...settings,
    },
    store,
    layers,
    client: new RegistryClient({
      monotonicMs: () => performance.now(),
      retry: { attempts: 2, firstWaitMs: 1, maxWaitMs: 10 },
    }),
    programs: { run: async () => await Promise.reject(new Error('no programs here')) },
    readArchive: async () => [],
    writeArchive: async function* () {},
    usersOf: () => users,
    mounts,
    log: silentLogger,
    meter: {
      ...silentMeter,
      pull: (outcome, bytes) => void pulls.push([outcome, bytes]),
      pullFailed: (reason) => void reasons.push(reason),
    },
    clock: systemClock,
    platform: { os: 'linux', architecture: 'amd64', variant: '' },
    ...more,
  });
}

beforeEach(async () => {
  registry = await FakeRegistry.start();
  root = await mkdtemp(join(tmpdir(), 'berth-images-'));
  [layers, store, users, pulls, reasons] = [new MemoryLayers(), new MemoryImageStore(), [], [], []];
  mounts = new FakeMounts();
  images = build();
  await images.start();
});

afterEach(async () => {
  await images.close();
  await registry.close();
  await rm(root, { recursive: true });
});

const name = (rest: string): string => `${registry.host}/${rest}`;
const inFlightFiles = async (): Promise<string[]> => await readdir(join(root, 'image/ingest'));

async function rejectsWith(work: Promise<unknown>, kind: ErrorKind, words: RegExp): Promise<void> {
  await assert.rejects(work, (err: unknown) => {
    assert.ok(isKind(err, kind), `${kind} expected: ${(err as BerthError).kind} ${chain(err)}`);
    assert.match(chain(err), words);
    return true;
  });
}

describe('Images.pull', () => {
  it('makes an image appear under its tag and digest, and leaves no blob behind', async () => {
    const image = fakeImage(['one', 'two', 'one']);
    registry.add('team/app', image, 'v1');
    const record = await images.pull(name('team/app:v1'), undefined, never);
    assert.equal(record.id, image.config.digest);
    assert.deepEqual(record.tags, [name('team/app:v1')]);
    assert.deepEqual(record.repoDigests, [name(`team/app@${image.manifest.digest}`)]);
    assert.deepEqual(record.layers, image.diffIds);
    assert.equal(record.sizeBytes, 6 + image.config.size);
    assert.equal(record.config.user, '1000');
    assert.deepEqual(record.config.cmd, ['sh']);
    assert.deepEqual(images.list(), [record]);
    assert.deepEqual(await inFlightFiles(), []);
    assert.equal(layers.calls.at(-1), 'flush');
    assert.equal(layers.calls.filter((call) => call.startsWith('unpack')).length, 2);
    assert.equal(registry.paths().filter((path) => path.includes('/blobs/')).length, 3);
    const bytes = (image.layers[0]?.size ?? 0) + (image.layers[1]?.size ?? 0);
    assert.deepEqual(pulls, [['ok', bytes]]);
    assert.deepEqual(images.pullsInFlight(), []);
  });

  it('takes the platform from an index in an index, and names the outer digest', async () => {
    const image = fakeImage(['mine']);
    const inner = fakeIndex([
      { blob: fakeImage(['arm'], { architecture: 'arm64' }).manifest, platform: 'linux/arm64/v8' },
      { blob: fakeBlob({ attestation: true }, image.manifest.mediaType), platform: 'unknown/unknown' },
      { blob: image.manifest, platform: 'linux/amd64' },
    ]);
    const outer = fakeIndex([{ blob: inner, platform: '' }]);
    registry.add('app', image);
    registry.addDocument('app', inner);
    registry.addDocument('app', outer, 'latest');
    const record = await images.pull(name('app'), undefined, never);
    assert.equal(record.id, image.config.digest);
    assert.deepEqual(record.repoDigests, [name(`app@${outer.digest}`)]);
    assert.deepEqual(record.tags, [name('app:latest')]);
  });

  it('pulls by digest without inventing a tag', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image);
    const record = await images.pull(name(`app:v9@${image.manifest.digest}`), undefined, never);
    assert.deepEqual([record.tags, record.repoDigests], [[], [name(`app@${image.manifest.digest}`)]]);
    assert.equal(images.find(name(`app:other@${image.manifest.digest}`)), record);
  });

  it('takes artifacts, whose id is their manifest, and whose files they share', async () => {
    const [weights, readme] = [Buffer.from('1234567'), Buffer.from('read me')];
    const files = [{ name: 'model/weights', bytes: weights }, { bytes: readme }];
    const one = fakeArtifact(files);
    registry.add('models', one, 'v1');
    const record = await images.pull(name('models:v1'), undefined, never);
    assert.deepEqual([record.id, record.artifactType], [one.manifest.digest, 'application/vnd.example.model']);
    assert.deepEqual(record.repoDigests, [name(`models@${one.manifest.digest}`)]);
    assert.equal(record.sizeBytes, weights.length + readme.length + one.manifest.size);
    const digest = one.layers[1]?.digest.replace(':', '-');
    assert.deepEqual(layers.calls.slice(0, 2).sort(), ['place model/weights', `place ${digest}`]);
    assert.deepEqual(layers.calls.slice(2), ['flush']);
    assert.deepEqual(await inFlightFiles(), []);
    // Another one of the same file, under its name and another; restarted, it is still what it was.
    const two = fakeArtifact([...files.slice(0, 1), { name: 'other', bytes: weights }], { artifactType: '' });
    registry.add('models', fakeArtifact([]), 'none');
    registry.add('models', two, 'v2');
    await images.pull(name('models:v2'), undefined, never);
    await images.pull(name('models:none'), undefined, never);
    assert.deepEqual(layers.calls.slice(3), ['place other', 'flush', 'flush']);
    images = build();
    await images.start();
    assert.equal(images.list().length, 3);
    assert.equal(images.find(name('models:v2'))?.artifactType, 'application/vnd.oci.empty.v1+json');
    await images.remove(record.id);
    assert.deepEqual(layers.calls.slice(6), [`remove ${record.layers[1]}`]);
  });

  it('verifies sha512 wherever it stands', async () => {
    const sha512 = (bytes: Buffer): string => `sha512:${createHash('sha512').update(bytes).digest('hex')}`;
    const as512 = (blob: FakeBlob): FakeBlob => ({ ...blob, digest: sha512(blob.bytes) });
    const plain = fakeImage(['one']);
    const layer = as512(plain.layers[0] ?? plain.config);
    const rootfs = { type: 'layers', diff_ids: [sha512(Buffer.from('one'))] };
    const config = as512(fakeBlob({ os: 'linux', architecture: 'amd64', rootfs }, plain.config.mediaType));
    const parsed: object = JSON.parse(String(plain.manifest.bytes));
    const document = { ...parsed, config: describeBlob(config) };
    const manifest = as512(fakeBlob({ ...document, layers: [describeBlob(layer)] }, plain.manifest.mediaType));
    registry.add('app', { ...plain, manifest, config, layers: [layer] }, 'v1');
    const byDigest = await images.pull(name(`app@${manifest.digest}`), undefined, never);
    assert.deepEqual(byDigest.repoDigests, [name(`app@${manifest.digest}`)]);
    assert.deepEqual(byDigest.layers, rootfs.diff_ids);
    assert.equal(byDigest.id, fakeBlob(config.bytes, '').digest);
    assert.equal(images.find(name(`app@${manifest.digest}`)), byDigest);
    const wrong = { ...manifest, digest: manifest.digest.replace(/.$/, (last) => (last === '0' ? '1' : '0')) };
    registry.addDocument('app', wrong);
    await rejectsWith(
      images.pull(name(`app@${wrong.digest}`), undefined, never),
      'unavailable',
      /content has digest sha512:/,
    );
  });

  it('downloads only what is missing, and moves a tag', async () => {
    const [first, second] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('app', first, 'v1');
    await images.pull(name('app:v1'), undefined, never);
    registry.add('app', second, 'v1');
    const before = registry.seen.length;
    await images.pull(name('app:v1'), undefined, never);
    const asked = registry.paths().slice(before);
    assert.ok(!asked.some((path) => path.endsWith(first.layers[0]?.digest ?? '')));
    assert.equal(images.find(name('app:v1'))?.id, second.config.digest);
    assert.deepEqual(images.find(first.config.digest)?.tags, []);
    assert.equal(images.find(first.config.digest)?.repoDigests.length, 1);
    assert.deepEqual(build().list(), images.list());
  });

  it('joins the same pull, but not one with other credentials', async () => {
    registry.add('app', fakeImage(['x']), 'latest');
    const reference = name('app');
    const all = [undefined, undefined, { username: 'me', password: 'x' }].map((auth) =>
      images.pull(reference, auth, never),
    );
    await Promise.all(all);
    assert.equal(registry.paths().filter((path) => path === '/app/manifests/latest').length, 2);
  });

  it('takes an image by two names at once, and while it is removed, with its configuration', async () => {
    const image = fakeImage(['x']);
    registry.add('team/app', image, 'v1');
    registry.add('other/app', image, 'v1');
    const pull = async (repository: string): Promise<unknown> =>
      await images.pull(name(`${repository}:v1`), undefined, never);
    for (let round = 0; round < 10; round += 1) {
      await Promise.all([pull('team/app'), pull('other/app')]);
      assert.equal(images.find(image.config.digest)?.tags.length, 2);
      await images.remove(image.config.digest);
    }
    await pull('team/app');
    layers.flush = async () => await images.remove(image.config.digest);
    await pull('other/app');
    assert.deepEqual(images.list()[0]?.tags, [name('other/app:v1')]);
    assert.deepEqual(await readdir(join(root, 'image/configs')), [image.config.digest.slice('sha256:'.length)]);
  });

  it('takes the auth file that was left for one pull of one namespace, and removes it', async () => {
    registry.add('team/app', fakeImage(['x']), 'v1');
    registry.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
    const namespaced = build({}, [], { namespacedAuthDir: root });
    const text = name('team/app:v1');
    const file = join(root, `blue-${createHash('sha256').update(text).digest('hex')}.json`);
    const auths = { [registry.host]: { username: 'me', password: 'SECRET' } };
    await writeFile(file, JSON.stringify({ auths }));
    await rejectsWith(namespaced.pull(text, undefined, never, 'green'), 'permission', /without credentials/);
    await rejectsWith(namespaced.pull(text, undefined, never, '../blue'), 'permission', /without credentials/);
    const [arrived, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    layers.gate = async () => {
      arrived.resolve();
      await gate.promise;
    };
    const pulled = namespaced.pull(text, undefined, never, 'blue');
    await arrived.promise;
    // What asks meanwhile without the file does not ride along.
    const patience = AbortSignal.timeout(5000);
    await rejectsWith(namespaced.pull(text, undefined, patience), 'permission', /without credentials/);
    gate.resolve();
    await pulled;
    assert.ok(!(await readdir(root)).includes(basename(file)));
    await rejectsWith(namespaced.pull(text, undefined, never, 'blue'), 'permission', /without credentials/);
    await namespaced.close();
  });

  it('tells nobody a secret, however it came and whatever goes wrong', async () => {
    const said: string[] = [];
    const note = (fields: object, message: string): void => {
      const err = 'err' in fields ? inspect(fields.err, { depth: 9 }) : '';
      said.push(message, JSON.stringify(fields), err);
    };
    const log: Logger = { debug: note, info: note, warn: note, error: note, child: () => log };
    await writeFile(
      join(root, 'registries.conf'),
      `[[registry]]\nlocation = "${registry.host}"
      [[registry.mirror]]\nlocation = "${registry.host}/mirror"`,
    );
    const talking = build({ log });
    await talking.start();
    const encoded = Buffer.from('me:SECRET').toString('base64');
    const forms = [
      { username: 'me', password: 'SECRET' },
      { auth: encoded },
      { auth: 'SECRET without a colon' },
      { identityToken: 'SECRET' },
      { registryToken: 'SECRET' },
      { username: 'me', password: 'SECRET', serverAddress: `https://me:SECRET@${registry.host}` },
    ];
    const refuse = { kind: 'bearer' as const, issue: () => undefined };
    for (const auth of [{ kind: 'none' as const }, refuse, { kind: 'basic' as const, username: 'x', password: 'y' }]) {
      for (const form of forms) {
        registry.auth = auth;
        await talking.pull(name('app'), form, never).catch((err: unknown) => said.push(inspect(err, { depth: 9 })));
      }
    }
    registry.misbehave = (_req, res) => Boolean(res.writeHead(500).end(`SECRET ${encoded}`));
    await talking.pull(name('app'), forms[0], never).catch((err: unknown) => said.push(inspect(err, { depth: 9 })));
    await talking.close();
    assert.ok(said.length > 20);
    for (const text of said) assert.ok(!text.includes('SECRET') && !text.includes(encoded), text);
  });

  it('tries search registries in turn, and tells what each of them said', async () => {
    const image = fakeImage(['x']);
    await using first = await FakeRegistry.start();
    registry.add('team/app', image, 'v1');
    const both = `["${first.host}", "${registry.host}"]`;
    const conf = join(root, 'registries.conf');
    await writeFile(conf, `unqualified-search-registries = ${both}`);
    await rejectsWith(images.pull('team/app:v1', undefined, never), 'invalid', /ambiguous/);
    await writeFile(conf, `short-name-mode = "disabled"\nunqualified-search-registries = ${both}`);
    assert.deepEqual((await images.pull('team/app:v1', undefined, never)).tags, [name('team/app:v1')]);
    assert.deepEqual(first.paths(), ['/team/app/manifests/v1']);
    const hosts = new RegExp(`${first.host}.*${registry.host}`);
    await rejectsWith(images.pull('team/other', undefined, never), 'notFound', hosts);
  });

  it('goes on while someone waits, and stops when the last one leaves', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    const arrived = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    layers.gate = async () => {
      arrived.resolve();
      await gate.promise;
    };
    const [one, two] = [new AbortController(), new AbortController()];
    const pulled = [one, two].map((client) => images.pull(name('app'), undefined, client.signal));
    await arrived.promise;
    assert.equal(images.pullsInFlight()[0]?.phase, 'downloading');
    one.abort(new BerthError('cancelled', 'the first left'));
    await assert.rejects(pulled[0] ?? Promise.resolve(), /the first left/);
    two.abort(new BerthError('cancelled', 'the second left'));
    // The abort comes to the unpack first.
    setImmediate(() => gate.resolve());
    await assert.rejects(pulled[1] ?? Promise.resolve(), /the second left/);
    assert.deepEqual([images.list(), layers.all(), store.images.all()], [[], [], []]);
    assert.deepEqual(
      pulls.map(([outcome]) => outcome),
      ['cancelled'],
    );
  });

  it('leaves nothing visible after a failure, and takes up the finished blobs', async () => {
    const image = fakeImage(['good', 'bad']);
    registry.add('app', image, 'latest');
    registry.misbehave = (req, res) => {
      if (!req.url?.endsWith(image.layers[1]?.digest ?? '')) return false;
      res.end('something else');
      return true;
    };
    await rejectsWith(
      images.pull(name('app'), undefined, never),
      'unavailable',
      /^pull .*blob sha256:.*(digest|longer|ends)/,
    );
    assert.deepEqual([images.list(), layers.all(), store.images.all()], [[], [], []]);
    registry.misbehave = undefined;
    const kept = await inFlightFiles();
    assert.ok(
      kept.every((file) => file === image.layers[0]?.digest.replace(':', '-') || file.endsWith('.partial')),
      kept.join(),
    );
    // Damaged meanwhile, at the same length: it must be noticed.
    const [file] = kept;
    if (file) await writeFile(join(root, 'image/ingest', file), Buffer.alloc(image.layers[0]?.size ?? 0));
    await images.pull(name('app'), undefined, never);
    assert.equal(images.list().length, 1);
    assert.deepEqual(await inFlightFiles(), []);
  });

  it('does not download a kept blob twice', async () => {
    const image = fakeImage(['good', 'bad']);
    registry.add('app', image, 'latest');
    const first = image.layers[0]?.digest ?? '';
    layers.gate = async (call) => {
      if (call === `unpack ${image.diffIds[0]}`) throw new BerthError('internal', 'broken in a test');
    };
    await rejectsWith(images.pull(name('app'), undefined, never), 'internal', /unpack layer .*broken/);
    layers.gate = undefined;
    await images.pull(name('app'), undefined, never);
    assert.equal(registry.paths().filter((path) => path.endsWith(first)).length, 1);
  });

  for (const kind of ['invalid', 'precondition'] as const) {
    it(`keeps no blob whose content was refused (${kind})`, async () => {
      const image = fakeImage(['bad']);
      registry.add('app', image, 'latest');
      layers.gate = async () => await Promise.reject(new BerthError(kind, 'hostile in a test'));
      await rejectsWith(images.pull(name('app'), undefined, never), kind, /unpack layer .*hostile/);
      assert.deepEqual(await inFlightFiles(), []);
    });
  }

  it('keeps no blob where the disk is full', async () => {
    const image = fakeImage(['good', 'bad']);
    registry.add('app', image, 'latest');
    layers.gate = async (call) => {
      if (call === `unpack ${image.diffIds[0]}`) throw new BerthError('exhausted', 'disk full in a test');
    };
    await rejectsWith(images.pull(name('app'), undefined, never), 'exhausted', /unpack layer .*disk full/);
    assert.deepEqual(
      (await inFlightFiles()).filter((file) => !file.endsWith('.trash')),
      [],
    );
  });

  it('asks the mirror first and the registry when it fails, and keeps the name', async () => {
    await using mirror = await FakeRegistry.start();
    const image = fakeImage(['x', 'y']);
    registry.add('team/app', image, 'v1');
    mirror.add('cache/app', image, 'v1');
    mirror.misbehave = (req, res) => {
      if (!req.url?.includes('/blobs/')) return false;
      answerError(res, 500, 'BROKEN');
      return true;
    };
    const table = `[[registry]]\nlocation = "${registry.host}/team"\n[[registry.mirror]]\nlocation = "${mirror.host}/cache"`;
    await writeFile(join(root, 'registries.conf'), table);
    const record = await images.pull(name('team/app:v1'), undefined, never);
    assert.deepEqual(record.tags, [name('team/app:v1')]);
    assert.ok(!registry.paths().includes('/team/app/manifests/v1'));
    assert.ok(mirror.paths().includes('/cache/app/manifests/v1'));
  });

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
  for (const [what, kind, words, arrange] of refused) {
    it(`refuses ${what}`, async () => {
      arrange();
      await rejectsWith(images.pull(name('app'), undefined, never), kind, words);
      assert.deepEqual([images.list(), layers.all(), store.images.all()], [[], [], []]);
    });
  }

  it('counts failures by reasons that alerts can be made of', async () => {
    await assert.rejects(images.pull(name('app:none'), undefined, never));
    for (const status of [503, 429]) {
      registry.misbehave = (_req, res) => {
        answerError(res, status, 'NO');
        return true;
      };
      await assert.rejects(images.pull(name('app:v1'), undefined, never));
    }
    await writeFile(join(root, 'policy.json'), '{"default": [{"type": "reject"}]}');
    await assert.rejects(images.pull(name('app:v1'), undefined, never));
    assert.deepEqual(reasons, ['not-found', 'registry-unavailable', 'rate-limited', 'untrusted']);
  });

  it('refuses a bad reference before it asks anyone', async () => {
    await rejectsWith(images.pull('Not/Valid!', undefined, never), 'invalid', /^image\.image/);
    assert.equal(registry.seen.length, 0);
  });

  it('says that nothing listens there', async () => {
    const { host } = registry;
    await registry.close();
    await rejectsWith(images.pull(`${host}/app`, undefined, never), 'unavailable', /^RegistryUnavailable: .*refused/);
    registry = await FakeRegistry.start();
  });
});

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
    const record = await images.pull(name('app:v1'), undefined, never);
    const byDigest = name(`app@${image.manifest.digest}`);
    for (const facade of [images, build()]) {
      const auth = { username: 'me', password: 'SECRET' };
      const asked = await askedDuring(async () => {
        assert.deepEqual(await facade.pull(byDigest, undefined, never), record);
        assert.deepEqual(await facade.pull(byDigest, auth, never), record);
      });
      assert.deepEqual(asked, []);
    }
    assert.equal(pulls.length, 5);
  });

  it('asks where a tag leads, and nothing else as long as that is here', async () => {
    const [first, second] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('app', second, 'v2');
    registry.add('app', first, 'v1');
    const pull = async (tag: string) => await images.pull(name(`app:${tag}`), undefined, never);
    const [record, other] = [await pull('v1'), await pull('v2')];
    assert.deepEqual(await askedDuring(async () => assert.equal(await pull('v1'), record)), [
      'HEAD /v2/app/manifests/v1',
    ]);
    registry.addDocument('app', second.manifest, 'v1');
    const moved = await askedDuring(async () => assert.equal((await pull('v1')).id, other.id));
    assert.deepEqual(moved, ['HEAD /v2/app/manifests/v1', 'GET /v2/app/manifests/v1']);
    assert.deepEqual(images.find(other.id)?.tags, [name('app:v2'), name('app:v1')]);
    assert.deepEqual(images.find(record.id)?.tags, []);
    assert.deepEqual(build().list(), images.list());
  });

  it('asks for the manifest where the other question is not answered', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    const record = await images.pull(name('app:v1'), undefined, never);
    const answers: (() => void)[] = [() => undefined];
    registry.misbehave = (req, res) => {
      if (req.method === 'HEAD') return Boolean(res.writeHead(answers.length % 2 === 0 ? 405 : 200).end());
      return false;
    };
    for (let again = 0; again < 2; again += 1) {
      const asked = await askedDuring(async () =>
        assert.equal(await images.pull(name('app:v1'), undefined, never), record),
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
    const byDigest = name(`app@${image.manifest.digest}`);
    const record = await images.pull(name('app:v1'), auth, never);
    assert.deepEqual(await askedDuring(() => images.pull(byDigest, auth, never)), []);
    await rejectsWith(images.pull(byDigest, undefined, never), 'permission', /without credentials/);
    const wrong = { username: 'me', password: 'wrong' };
    await rejectsWith(images.pull(byDigest, wrong, never), 'permission', /with the credentials/);
    // Another process does not know whom the registry has served; it asks once for each.
    const restarted = build();
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
    const record = await images.pull(name('app:v1'), undefined, never);
    const byDigest = name(`app@${image.manifest.digest}`);
    layers.layers.clear();
    assert.ok((await askedDuring(() => images.pull(byDigest, undefined, never))).length > 2);
    assert.deepEqual(layers.all().length, record.layers.length);
    const { openDigests: _, ...older } = store.images.all()[0] ?? assert.fail();
    store.images.put(older);
    const restarted = build();
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

describe('Images.find and remove', () => {
  it('finds by id, prefix, tag in any spelling, and digest', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    const record = await images.pull(name('app'), undefined, never);
    const hex = record.id.slice('sha256:'.length);
    const texts = [record.id, hex, hex.slice(0, 12), record.id.slice(0, 20), name('app'), name('app:latest')];
    for (const text of [...texts, name(`app@${image.manifest.digest}`)]) assert.equal(images.find(text), record, text);
    for (const text of ['busybox', hex.slice(0, 3), name('app:v2'), 'f'.repeat(64)]) {
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
    const restarted = build();
    assert.throws(() => restarted.find('abcd'), /ambiguous: 2 images/);
    assert.ok(restarted.find('abcd1')?.id.startsWith('sha256:abcd1'));
  });

  it('removes the image with all names, and the layers that no other has', async () => {
    const [one, two] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('one', one, 'v1');
    registry.add('one', one, 'v2');
    registry.add('two', two, 'v1');
    for (const text of ['one:v1', 'one:v2', 'two:v1']) await images.pull(name(text), undefined, never);
    assert.equal(images.list().length, 2);
    users = ['container-1'];
    await rejectsWith(images.remove(name('one:v1')), 'precondition', /in use by container container-1/);
    users = [];
    await images.remove(name('one:v2'));
    assert.equal(images.find(name('one:v1')), undefined);
    assert.deepEqual([...layers.layers.keys()].sort(), [...two.diffIds].sort());
    await images.remove(name('one:v1'));
    await images.remove(two.config.digest);
    assert.deepEqual([layers.all(), store.images.all()], [[], []]);
  });

  it('does not have a pull wait for the space of what was removed, nor who has no patience', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'latest');
    await images.pull(name('app'), undefined, never);
    const gate = Promise.withResolvers<void>();
    layers.gate = async (call) => {
      if (call.startsWith('remove')) await gate.promise;
    };
    const patience = new AbortController();
    const removed = images.remove(name('app'), patience.signal);
    await images.pull(name('app'), undefined, never);
    assert.deepEqual([layers.all().map((layer) => layer.diffId), images.list().length], [image.diffIds, 1]);
    patience.abort(new Error('waits no longer'));
    await removed;
    const patient = images.remove(name('app'));
    gate.resolve();
    await patient;
    assert.deepEqual([layers.all(), images.list()], [[], []]);
  });

  it('tells who waits that the space could not be freed', async () => {
    registry.add('app', fakeImage(['x']), 'latest');
    await images.pull(name('app'), undefined, never);
    layers.gate = async (call) => {
      if (call.startsWith('remove')) throw new Error('the disk is broken');
    };
    await assert.rejects(images.remove(name('app')), /is removed, and not all of its layers are/);
    assert.deepEqual(images.list(), []);
    await images.remove(name('app'));
  });

  it('keeps what it has over a restart, and what is good of damaged images until a pull mends them', async () => {
    registry.add('app', fakeImage(['a']), 'v1');
    registry.add('app', fakeImage(['b', 'c']), 'v2');
    const kept = await images.pull(name('app:v1'), undefined, never);
    const lost = await images.pull(name('app:v2'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    layers.layers.set('sha256:orphan', 1);
    await writeFile(join(root, 'image/ingest/left'), 'over');
    const restarted = build();
    await restarted.start();
    assert.deepEqual(restarted.list(), [kept]);
    const onDisk = (): string[] => layers.all().map((layer) => layer.diffId);
    assert.deepEqual(onDisk(), [...kept.layers, lost.layers[1]]);
    assert.deepEqual(await inFlightFiles(), []);
    const [damaged] = await restarted.check([name('app:v2')], never);
    assert.deepEqual([damaged?.id, damaged?.problems.length], [lost.id, 1]);
    const prunable = await restarted.prune({ dryRun: true, unusedImages: false, damagedImages: true });
    assert.deepEqual(
      prunable.map(({ kind, name: item }) => [kind, item]),
      [['image', name('app:v2')]],
    );
    layers.calls.length = 0;
    const mended = await restarted.pull(name('app:v2'), undefined, never);
    assert.deepEqual([mended.id, mended.tags], [lost.id, [name('app:v2')]]);
    assert.equal(layers.calls.filter((call) => call.startsWith('unpack')).length, 1);
    assert.deepEqual(await restarted.prune({ dryRun: true, unusedImages: false }), []);
    await restarted.close();
  });

  it('removes what a killed process left of judging signatures', async () => {
    const folder = join(root, 'image/gpgv/gpgv-left');
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'content'), 'x');
    const next = build();
    await next.start();
    assert.ok(!(await readdir(join(root, 'image'))).includes('gpgv'));
    await next.close();
  });

  it('prunes what is left of a damaged image, unless something uses it', async () => {
    registry.add('app', fakeImage(['b', 'c']), 'v2');
    const lost = await images.pull(name('app:v2'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    users = ['container'];
    const restarted = build();
    await restarted.start();
    const all = { dryRun: false, unusedImages: true, damagedImages: true };
    assert.deepEqual(await restarted.prune(all), []);
    users = [];
    assert.deepEqual(await restarted.prune({ dryRun: false, unusedImages: true }), []);
    assert.equal((await restarted.prune(all)).length, 1);
    assert.deepEqual([layers.all(), store.rows.size, await readdir(join(root, 'image/configs'))], [[], 0, []]);
    await restarted.close();
  });

  it('leaves a name to the image that got it while the one that had it was damaged', async () => {
    const [first, second] = [fakeImage(['a']), fakeImage(['b'])];
    registry.add('app', first, 'v1');
    const lost = await images.pull(name('app:v1'), undefined, never);
    layers.layers.delete(lost.layers[0] ?? '');
    const restarted = build();
    await restarted.start();
    registry.add('app', second, 'v1');
    const other = await restarted.pull(name('app:v1'), undefined, never);
    // Whatever comes first out of the store.
    const again = build();
    await again.start();
    assert.equal(again.find(name('app:v1'))?.id, other.id);
    await again.pull(name(`app@${first.manifest.digest}`), undefined, never);
    assert.deepEqual([again.find(name('app:v1'))?.id, again.find(lost.id)?.tags], [other.id, []]);
    await restarted.close();
    await again.close();
  });

  it('takes images that are found damaged out of sight', async () => {
    registry.add('app', fakeImage(['base', 'a']), 'v1');
    registry.add('app', fakeImage(['base', 'b']), 'v2');
    const [one, two] = [
      await images.pull(name('app:v1'), undefined, never),
      await images.pull(name('app:v2'), undefined, never),
    ];
    assert.deepEqual(
      (await images.check([], never)).map(({ problems }) => problems),
      [[], []],
    );
    layers.damaged.set(one.layers[0] ?? '', 'a file is gone');
    const [checked] = await images.check([name('app:v1')], never);
    assert.deepEqual(
      [checked?.names[0], checked?.problems],
      [name('app:v1'), [`layer ${one.layers[0]}: a file is gone`]],
    );
    assert.deepEqual(images.list(), []);
    await images.pull(name('app:v1'), undefined, never);
    assert.deepEqual(
      images
        .list()
        .map(({ id }) => id)
        .sort(),
      [one.id, two.id].sort(),
    );
    await rejectsWith(images.check([name('app:v3')], never), 'notFound', /is not here/);
  });

  it('spares layers that something runs on, whatever became of their image', async () => {
    layers.layers.set('sha256:running', 1);
    layers.layers.set('sha256:orphan', 1);
    layers.mounted.add('sha256:running');
    const restarted = build();
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
    const { id } = await images.pull(name('app:v1'), undefined, never);
    mounts.mount(images.find(id) ?? assert.fail(), '/mnt/app');
    await rejectsWith(
      images.remove(name('app:v1')),
      'precondition',
      /is mounted at \/mnt\/app; berth image unmount \/mnt\/app/,
    );
    assert.deepEqual(await images.prune({ dryRun: true, unusedImages: true }), []);
    assert.deepEqual(images.unmount(name('app:v1')), ['/mnt/app']);
    await rejectsWith((async () => images.unmount('/mnt/app'))(), 'notFound', /nothing is mounted at/);
    await images.remove(name('app:v1'));
  });

  it('pins by name, glob and keyword, also what is there already', async () => {
    registry.add('team/app', fakeImage(['a']), 'v1');
    await images.pull(name('team/app:v1'), undefined, never);
    const patterns: [string, boolean][] = [
      [name('team/app:v1'), true],
      [name('team/*'), true],
      ['*team/app*', true],
      ['team/app', false],
      [name('team/app:v1*v1'), false],
    ];
    for (const [pattern, expected] of patterns) {
      images.follow(pinning([pattern]));
      assert.equal(images.list()[0]?.pinned, expected, pattern);
    }
    assert.equal(build({}, ['*']).list()[0]?.pinned, true);
  });
});

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
    return { images: build({ readArchive: async () => [one] }), disposed: () => disposed };
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

describe('Images.prune', () => {
  it('tells what belongs to nothing and why, and removes just that', async () => {
    registry.add('app', fakeImage(['used']), 'v1');
    for (const tag of ['v2', 'v3']) registry.add('app', fakeImage(['idle']), tag);
    const used = await images.pull(name('app:v1'), undefined, never);
    const idle = await images.pull(name('app:v2'), undefined, never);
    await images.pull(name('app:v3'), undefined, never);
    const own = build({ usersOf: (id) => (id === used.id ? ['container'] : []) });
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
    const both = `${name('app:v2')}, ${name('app:v3')}`;
    assert.deepEqual(await shown(true, true), [['image', both, 4], ...expected]);
    assert.deepEqual(await shown(false, true), [['image', both, 4], ...expected]);
    assert.deepEqual(
      own.list().map(({ id }) => id),
      [used.id],
    );
    assert.deepEqual([layers.all().length, layers.strays(), await inFlightFiles()], [1, [], []]);
    assert.deepEqual(await shown(true, true), []);
    assert.equal(idle.layers.length, 1);
  });

  it('spares what is pinned', async () => {
    registry.add('app', fakeImage(['idle']), 'v1');
    await images.pull(name('app:v1'), undefined, never);
    images.follow(pinning([name('app:v1')]));
    assert.deepEqual(await images.prune({ dryRun: true, unusedImages: true }), []);
  });
});

describe('Images.pullsInFlight', () => {
  it('tells layers, bytes and rate, by any spelling of the reference', async () => {
    const image = fakeImage(['one', 'two']);
    registry.add('app', image, 'latest');
    const arrived = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    let waiting = 0;
    layers.gate = async () => {
      waiting += 1;
      if (waiting === 2) arrived.resolve();
      await gate.promise;
    };
    const pulled = images.pull(name('app'), undefined, never);
    await arrived.promise;
    const [pull] = images.pullsInFlight(name('app:latest'));
    assert.deepEqual(
      pull?.layers.map(({ digest, bytesTotal, bytesDone, phase }) => [digest, bytesTotal, bytesDone, phase]),
      image.layers.map(({ digest, size }) => [digest, size, size, 'unpacking']),
    );
    assert.equal(
      pull?.traffic.bytes,
      image.layers.reduce((sum, { size }) => sum + size, 0),
    );
    assert.ok((pull?.traffic.rate() ?? 0) > 0);
    assert.deepEqual(images.pullsInFlight('other'), []);
    gate.resolve();
    await pulled;
    assert.deepEqual(images.pullsInFlight(), []);
  });
});

/** The settings that may change while berthd runs, with these images pinned. */
function pinning(pinnedImages: readonly string[]): LiveImageSettings {
  return { pinnedImages, maxParallelDownloads: 3, pullTimeoutMs: 60_000, namespacedAuthDir: '' };
}
