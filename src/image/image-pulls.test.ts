import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { inspect } from 'node:util';

import { ImagesLab, rejectsWith } from '../../test/fakes/images-lab.ts';
import type { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
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
import { BerthError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
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

describe('Images.pull', () => {
  it('makes an image appear under its tag and digest, and leaves no blob behind', async () => {
    const image = fakeImage(['one', 'two', 'one']);
    registry.add('team/app', image, 'v1');
    const record = await images.pull(lab.name('team/app:v1'), undefined, never);
    assert.equal(record.id, image.config.digest);
    assert.deepEqual(record.tags, [lab.name('team/app:v1')]);
    assert.deepEqual(record.repoDigests, [lab.name(`team/app@${image.manifest.digest}`)]);
    assert.deepEqual(record.layers, image.diffIds);
    assert.equal(record.sizeBytes, 6 + image.config.size);
    assert.equal(record.config.user, '1000');
    assert.deepEqual(record.config.cmd, ['sh']);
    assert.deepEqual(images.list(), [record]);
    assert.deepEqual(await lab.inFlightFiles(), []);
    assert.equal(layers.calls.at(-1), 'flush');
    assert.equal(layers.calls.filter((call) => call.startsWith('unpack')).length, 2);
    assert.equal(registry.paths().filter((path) => path.includes('/blobs/')).length, 3);
    const bytes = (image.layers[0]?.size ?? 0) + (image.layers[1]?.size ?? 0);
    assert.deepEqual(lab.pulls, [['ok', bytes]]);
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
    const record = await images.pull(lab.name('app'), undefined, never);
    assert.equal(record.id, image.config.digest);
    assert.deepEqual(record.repoDigests, [lab.name(`app@${outer.digest}`)]);
    assert.deepEqual(record.tags, [lab.name('app:latest')]);
  });

  it('pulls by digest without inventing a tag', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image);
    const record = await images.pull(lab.name(`app:v9@${image.manifest.digest}`), undefined, never);
    assert.deepEqual([record.tags, record.repoDigests], [[], [lab.name(`app@${image.manifest.digest}`)]]);
    assert.equal(images.find(lab.name(`app:other@${image.manifest.digest}`)), record);
  });

  it('takes artifacts, whose id is their manifest, and whose files they share', async () => {
    const [weights, readme] = [Buffer.from('1234567'), Buffer.from('read me')];
    const files = [{ name: 'model/weights', bytes: weights }, { bytes: readme }];
    const one = fakeArtifact(files);
    registry.add('models', one, 'v1');
    const record = await images.pull(lab.name('models:v1'), undefined, never);
    assert.deepEqual([record.id, record.artifactType], [one.manifest.digest, 'application/vnd.example.model']);
    assert.deepEqual(record.repoDigests, [lab.name(`models@${one.manifest.digest}`)]);
    assert.equal(record.sizeBytes, weights.length + readme.length + one.manifest.size);
    const digest = one.layers[1]?.digest.replace(':', '-');
    assert.deepEqual(layers.calls.slice(0, 2).sort(), ['place model/weights', `place ${digest}`]);
    assert.deepEqual(layers.calls.slice(2), ['flush']);
    assert.deepEqual(await lab.inFlightFiles(), []);
    // Another one of the same file, under its name and another; restarted, it is still what it was.
    const two = fakeArtifact([...files.slice(0, 1), { name: 'other', bytes: weights }], { artifactType: '' });
    registry.add('models', fakeArtifact([]), 'none');
    registry.add('models', two, 'v2');
    await images.pull(lab.name('models:v2'), undefined, never);
    await images.pull(lab.name('models:none'), undefined, never);
    assert.deepEqual(layers.calls.slice(3), ['place other', 'flush', 'flush']);
    images = lab.images = lab.build();
    await images.start();
    assert.equal(images.list().length, 3);
    assert.equal(images.find(lab.name('models:v2'))?.artifactType, 'application/vnd.oci.empty.v1+json');
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
    const byDigest = await images.pull(lab.name(`app@${manifest.digest}`), undefined, never);
    assert.deepEqual(byDigest.repoDigests, [lab.name(`app@${manifest.digest}`)]);
    assert.deepEqual(byDigest.layers, rootfs.diff_ids);
    assert.equal(byDigest.id, fakeBlob(config.bytes, '').digest);
    assert.equal(images.find(lab.name(`app@${manifest.digest}`)), byDigest);
    const wrong = { ...manifest, digest: manifest.digest.replace(/.$/, (last) => (last === '0' ? '1' : '0')) };
    registry.addDocument('app', wrong);
    await rejectsWith(
      images.pull(lab.name(`app@${wrong.digest}`), undefined, never),
      'unavailable',
      /content has digest sha512:/,
    );
  });

  it('downloads only what is missing, and moves a tag', async () => {
    const [first, second] = [fakeImage(['base', 'a']), fakeImage(['base', 'b'])];
    registry.add('app', first, 'v1');
    await images.pull(lab.name('app:v1'), undefined, never);
    registry.add('app', second, 'v1');
    const before = registry.seen.length;
    await images.pull(lab.name('app:v1'), undefined, never);
    const asked = registry.paths().slice(before);
    assert.ok(!asked.some((path) => path.endsWith(first.layers[0]?.digest ?? '')));
    assert.equal(images.find(lab.name('app:v1'))?.id, second.config.digest);
    assert.deepEqual(images.find(first.config.digest)?.tags, []);
    assert.equal(images.find(first.config.digest)?.repoDigests.length, 1);
    assert.deepEqual(lab.build().list(), images.list());
  });

  it('joins the same pull, but not one with other credentials', async () => {
    registry.add('app', fakeImage(['x']), 'latest');
    const reference = lab.name('app');
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
      await images.pull(lab.name(`${repository}:v1`), undefined, never);
    for (let round = 0; round < 10; round += 1) {
      await Promise.all([pull('team/app'), pull('other/app')]);
      assert.equal(images.find(image.config.digest)?.tags.length, 2);
      await images.remove(image.config.digest);
    }
    await pull('team/app');
    layers.flush = async () => await images.remove(image.config.digest);
    await pull('other/app');
    assert.deepEqual(images.list()[0]?.tags, [lab.name('other/app:v1')]);
    assert.deepEqual(await readdir(join(root, 'image/configs')), [image.config.digest.slice('sha256:'.length)]);
  });

  it('takes the auth file that was left for one pull of one namespace, and removes it', async () => {
    registry.add('team/app', fakeImage(['x']), 'v1');
    registry.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
    const namespaced = lab.build({}, [], { namespacedAuthDir: root });
    const text = lab.name('team/app:v1');
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
    const patience = AbortSignal.timeout(60_000);
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
    const talking = lab.build({ log });
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
        await talking.pull(lab.name('app'), form, never).catch((err: unknown) => said.push(inspect(err, { depth: 9 })));
      }
    }
    registry.misbehave = (_req, res) => Boolean(res.writeHead(500).end(`SECRET ${encoded}`));
    await talking.pull(lab.name('app'), forms[0], never).catch((err: unknown) => said.push(inspect(err, { depth: 9 })));
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
    assert.deepEqual((await images.pull('team/app:v1', undefined, never)).tags, [lab.name('team/app:v1')]);
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
    const pulled = [one, two].map((client) => images.pull(lab.name('app'), undefined, client.signal));
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
      lab.pulls.map(([outcome]) => outcome),
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
      images.pull(lab.name('app'), undefined, never),
      'unavailable',
      /^pull .*blob sha256:.*(digest|longer|ends)/,
    );
    assert.deepEqual([images.list(), layers.all(), store.images.all()], [[], [], []]);
    registry.misbehave = undefined;
    const kept = await lab.inFlightFiles();
    assert.ok(
      kept.every((file) => file === image.layers[0]?.digest.replace(':', '-') || file.endsWith('.partial')),
      kept.join(),
    );
    // Damaged meanwhile, at the same length: it must be noticed.
    const [file] = kept;
    if (file) await writeFile(join(root, 'image/ingest', file), Buffer.alloc(image.layers[0]?.size ?? 0));
    await images.pull(lab.name('app'), undefined, never);
    assert.equal(images.list().length, 1);
    assert.deepEqual(await lab.inFlightFiles(), []);
  });

  it('does not download a kept blob twice', async () => {
    const image = fakeImage(['good', 'bad']);
    registry.add('app', image, 'latest');
    const first = image.layers[0]?.digest ?? '';
    layers.gate = async (call) => {
      if (call === `unpack ${image.diffIds[0]}`) throw new BerthError('internal', 'broken in a test');
    };
    await rejectsWith(images.pull(lab.name('app'), undefined, never), 'internal', /unpack layer .*broken/);
    layers.gate = undefined;
    await images.pull(lab.name('app'), undefined, never);
    assert.equal(registry.paths().filter((path) => path.endsWith(first)).length, 1);
  });

  for (const kind of ['invalid', 'precondition'] as const) {
    it(`keeps no blob whose content was refused (${kind})`, async () => {
      const image = fakeImage(['bad']);
      registry.add('app', image, 'latest');
      layers.gate = async () => await Promise.reject(new BerthError(kind, 'hostile in a test'));
      await rejectsWith(images.pull(lab.name('app'), undefined, never), kind, /unpack layer .*hostile/);
      assert.deepEqual(await lab.inFlightFiles(), []);
    });
  }

  it('keeps no blob where the disk is full', async () => {
    const image = fakeImage(['good', 'bad']);
    registry.add('app', image, 'latest');
    layers.gate = async (call) => {
      if (call === `unpack ${image.diffIds[0]}`) throw new BerthError('exhausted', 'disk full in a test');
    };
    await rejectsWith(images.pull(lab.name('app'), undefined, never), 'exhausted', /unpack layer .*disk full/);
    assert.deepEqual(
      (await lab.inFlightFiles()).filter((file) => !file.endsWith('.trash')),
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
    const record = await images.pull(lab.name('team/app:v1'), undefined, never);
    assert.deepEqual(record.tags, [lab.name('team/app:v1')]);
    assert.ok(!registry.paths().includes('/team/app/manifests/v1'));
    assert.ok(mirror.paths().includes('/cache/app/manifests/v1'));
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
    const pulled = images.pull(lab.name('app'), undefined, never);
    await arrived.promise;
    const [pull] = images.pullsInFlight(lab.name('app:latest'));
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
