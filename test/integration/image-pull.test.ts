/** Pulls from Debian's docker-registry what skopeo has pushed there. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';

import { systemClock } from '../../src/base/clock.ts';
import { describe as chain, isKind } from '../../src/base/errors.ts';
import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import type { StoredImage } from '../../src/image/image-record.ts';
import { Images } from '../../src/image/images.ts';
import { RegistryClient } from '../../src/image/registry-client.ts';
import { Store, type StoredTypes } from '../../src/store/store.ts';
import { FakeMounts } from '../fakes/image-mounts.ts';
import {
  type BuiltLayout,
  buildBusyboxLayout,
  missingTools,
  pushLayout,
  startRegistry,
  type TestRegistry,
} from '../fakes/images.ts';
import { MemoryLayers } from '../fakes/layer-folders.ts';

type Types = StoredTypes & { readonly image: StoredImage };

const never = new AbortController().signal;
const missing = missingTools();

describe('pull from docker-registry', {
  skip: missing.length > 0 ? `not installed: ${missing.join(', ')}` : false,
}, () => {
  let open: TestRegistry;
  let closed: TestRegistry;
  let layouts: string;
  let gzip: BuiltLayout;
  let root: string;
  let layers: MemoryLayers;
  let store: Store<Types>;
  let images: Images;

  const build = (at: string, authFile = ''): Images =>
    new Images({
      root: at,
      settings: {
        registriesConf: '',
        registriesConfDir: '',
        shortNameAliases: '',
        hostsDirs: [],
        certsDirs: [],
        namespacedAuthDir: '',
        signaturePolicy: join(root, 'policy.json'),
        signaturePolicyMayBeMissing: true,
        signaturePolicyDir: '',
        lookasideDir: '',
        authFile,
        pinnedImages: [],
        maxParallelDownloads: 3,
        pullTimeoutMs: 30_000,
      },
      store,
      layers,
      client: new RegistryClient({ monotonicMs: () => performance.now() }),
      programs: { run: async () => await Promise.reject(new Error('no programs here')) },
      readArchive: async () => [],
      writeArchive: async function* () {},
      mounts: new FakeMounts(),
      usersOf: () => [],
      log: silentLogger,
      meter: silentMeter,
      clock: systemClock,
    });

  before(async () => {
    layouts = await mkdtemp(join(tmpdir(), 'berth-image-pull-layouts-'));
    [open, closed] = await Promise.all([startRegistry(), startRegistry({ auth: true })]);
    const config = { User: 'user', Cmd: ['httpd', '-f'], Env: ['A=b'], StopSignal: 'SIGINT' };
    gzip = await buildBusyboxLayout(layouts, { tag: 'gzip', config, layers: [{ 'etc/motd': 'hello\n' }] });
  });

  after(async () => {
    await Promise.all([open.close(), closed.close()]);
    await rm(layouts, { recursive: true });
  });

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'berth-image-pull-'));
    layers = new MemoryLayers();
    store = Store.open<Types>(root, systemClock);
    images = build(root);
    await images.start();
  });

  afterEach(async () => {
    await images.close();
    store.close();
    await rm(root, { recursive: true });
  });

  it('pulls an OCI image by tag and by digest', async () => {
    const reference = await pushLayout(gzip, open, 'team/busybox:v1');
    const record = await images.pull(reference, undefined, never);
    assert.equal(record.id, gzip.configDigest);
    assert.deepEqual(record.layers, gzip.diffIds);
    assert.deepEqual(record.tags, [reference]);
    assert.deepEqual(record.repoDigests, [`${open.host}/team/busybox@${gzip.manifestDigest}`]);
    assert.equal(record.config.user, 'user');
    assert.equal(record.config.stopSignal, 'SIGINT');
    const again = await images.pull(`${open.host}/team/busybox@${gzip.manifestDigest}`, undefined, never);
    assert.deepEqual(again, record);
    assert.deepEqual(await readdir(join(root, 'image/ingest')), []);
    const restarted = build(root);
    await restarted.start();
    assert.deepEqual(restarted.find(reference), record);
  });

  it('pulls Docker schema 2, zstd and plain tar layers', async () => {
    const docker = await pushLayout(gzip, open, 'team/docker:v1', { format: 'v2s2' });
    assert.deepEqual((await images.pull(docker, undefined, never)).layers, gzip.diffIds);
    for (const compression of ['zstd', 'none'] as const) {
      const layout = await buildBusyboxLayout(layouts, { tag: compression, compression });
      const reference = await pushLayout(layout, open, `team/${compression}:v1`);
      assert.deepEqual((await images.pull(reference, undefined, never)).layers, layout.diffIds);
    }
  });

  it('logs in with the credentials of the request, and with those of the auth file', async () => {
    const reference = await pushLayout(gzip, closed, 'private/busybox:v1');
    const { username, password } = closed;
    await assert.rejects(images.pull(reference, undefined, never), (err) => isKind(err, 'permission'));
    await assert.rejects(images.pull(reference, { username, password: 'wrong' }, never), (err: unknown) => {
      assert.match(chain(err), /private\/busybox.*refused .* credentials from the pull request, status 401/);
      return isKind(err, 'permission');
    });
    assert.deepEqual(images.list(), []);
    assert.equal((await images.pull(reference, { username, password }, never)).id, gzip.configDigest);
    await images.remove(reference);
    assert.deepEqual(layers.all(), []);
    const authFile = join(root, 'auth.json');
    const auth = Buffer.from(`${username}:${password}`).toString('base64');
    await writeFile(authFile, JSON.stringify({ auths: { [`${closed.host}/private`]: { auth } } }));
    const withFile = build(root, authFile);
    await withFile.start();
    assert.equal((await withFile.pull(reference, undefined, never)).id, gzip.configDigest);
    await withFile.close();
  });

  it('says which tag is unknown', async () => {
    await assert.rejects(images.pull(`${open.host}/team/missing:v1`, undefined, never), (err: unknown) => {
      assert.match(chain(err), /manifest v1 of .*team\/missing: not found \(MANIFEST_UNKNOWN\)/);
      return isKind(err, 'notFound');
    });
  });

  it('says where there is no space left, and leaves nothing', async () => {
    const reference = await pushLayout(gzip, open, 'team/busybox:v1');
    const small = await mkdtemp(join(tmpdir(), 'berth-image-small-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'berth-test', small]);
    try {
      const crowded = build(small);
      await crowded.start();
      await assert.rejects(crowded.pull(reference, undefined, never), (err: unknown) => {
        assert.match(chain(err), new RegExp(`no space left in ${small}/image/ingest: [0-9]+ bytes`));
        assert.ok(!chain(err).includes('RegistryUnavailable'));
        return isKind(err, 'exhausted');
      });
      assert.deepEqual([crowded.list(), layers.all()], [[], []]);
      const left = await readdir(join(small, 'image/ingest'));
      assert.deepEqual(
        left.filter((name) => name.endsWith('.partial')),
        [],
      );
      await crowded.close();
    } finally {
      execFileSync('umount', [small]);
      await rm(small, { recursive: true });
    }
  });
});
