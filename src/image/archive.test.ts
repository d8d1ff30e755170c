import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';

import { type FakeMember, tarBytes } from '../../test/fakes/tar-bytes.ts';
import { describe as chain, type ErrorKind, isKind } from '../base/errors.ts';
import { readArchive } from './archive.ts';
import { DiskWorkers } from './disk-workers.ts';

const never = new AbortController().signal;
const platform = { os: 'linux', architecture: 'amd64', variant: '' };
const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** The files of an archive by their names. */
type Files = Record<string, Buffer>;

const layerTar = tarBytes([{ name: 'hello', data: 'world' }]);
const layer = gzipSync(layerTar);
const config = Buffer.from(
  JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs: { diff_ids: [digestOf(layerTar)] } }),
);

function addBlob(files: Files, content: Buffer | object): { digest: string; size: number } {
  const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
  files[`blobs/sha256/${digestOf(bytes).slice(7)}`] = bytes;
  return { digest: digestOf(bytes), size: bytes.length };
}

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const INDEX = 'application/vnd.oci.image.index.v1+json';

/** An OCI layout; `entries` makes its index.json from the manifest. */
function layout(
  entries?: (manifest: { mediaType: string; digest: string; size: number }, files: Files) => object[],
): Files {
  const files: Files = { 'oci-layout': Buffer.from('{"imageLayoutVersion":"1.0.0"}') };
  const manifest = addBlob(files, {
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...addBlob(files, config) },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...addBlob(files, layer) }],
  });
  const entry = { mediaType: MANIFEST, ...manifest };
  const manifests = entries?.(entry, files) ?? [
    { ...entry, annotations: { 'org.opencontainers.image.ref.name': 'demo:v1' } },
  ];
  files['index.json'] = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests }));
  return files;
}

const tarOf = (files: Files): Buffer => tarBytes(Object.entries(files).map(([name, data]) => ({ name, data })));

/** A `docker save` archive of the older form. */
function saved(layers: readonly string[], members: readonly FakeMember[]): Buffer {
  const manifest = JSON.stringify([{ Config: 'config.json', RepoTags: ['demo:v1', 'demo:v2'], Layers: layers }]);
  return tarBytes([...members, { name: 'config.json', data: config }, { name: 'manifest.json', data: manifest }]);
}

describe('readArchive', () => {
  let folder: string;
  let workers: DiskWorkers;
  before(() => {
    workers = new DiskWorkers({ threads: 1 });
  });
  after(() => workers.close());
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-archive-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const scratch = (): string => join(folder, 'scratch');
  const write = (bytes: Buffer): string => {
    writeFileSync(join(folder, 'archive'), bytes);
    return join(folder, 'archive');
  };
  const writeFolder = (files: Files): string => {
    for (const [name, bytes] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, 'layout', name)), { recursive: true });
      writeFileSync(join(folder, 'layout', name), bytes);
    }
    return join(folder, 'layout');
  };
  const left = (): string[] => {
    try {
      return readdirSync(scratch());
    } catch {
      return [];
    }
  };
  const read = (path: string) => readArchive(path, { scratch: scratch(), workers, platform }, never);

  async function isDemo(path: string, references: readonly string[], tags: readonly string[] = []): Promise<void> {
    const images = await read(path);
    assert.equal(images.length, 1);
    const [image] = images;
    assert.ok(image);
    assert.deepEqual([image.references, image.tags], [references, tags]);
    assert.deepEqual(image.configBytes, config);
    assert.equal(image.layers.length, 1);
    assert.equal(image.layers[0]?.diffId, digestOf(layerTar));
    assert.deepEqual(readFileSync(image.layers[0]?.path ?? ''), layer);
    await image.dispose();
    assert.deepEqual(left(), []);
  }
  async function refused(path: string, words: RegExp, kind: ErrorKind = 'invalid'): Promise<void> {
    await assert.rejects(read(path), (err: unknown) => {
      assert.match(chain(err), words);
      assert.ok(isKind(err, kind), `${kind} expected: ${chain(err)}`);
      return true;
    });
    assert.deepEqual(left(), []);
  }

  it('takes an OCI layout: folder, tar, compressed tar', async () => {
    await isDemo(writeFolder(layout()), ['demo:v1']);
    await isDemo(write(tarOf(layout())), ['demo:v1']);
    await isDemo(write(gzipSync(tarOf(layout()))), ['demo:v1']);
  });

  it('takes what docker save writes, with compressed layers and links to layers', async () => {
    const members: FakeMember[] = [
      { name: 'abc/layer.tar', data: layer },
      { name: 'def/layer.tar', type: '2', link: '../abc/layer.tar' },
    ];
    await isDemo(write(saved(['abc/layer.tar'], members)), ['demo:v1', 'demo:v2']);
    await isDemo(write(saved(['def/layer.tar'], members)), ['demo:v1', 'demo:v2']);
  });

  it('prefers the whole name, and gathers the names of one image', async () => {
    const files = layout((entry) => [
      { ...entry, annotations: { 'io.containerd.image.name': 'reg.io/a:1', 'org.opencontainers.image.ref.name': '1' } },
      { ...entry, annotations: { 'org.opencontainers.image.ref.name': 'reg.io/b:2' } },
    ]);
    await isDemo(write(tarOf(files)), ['reg.io/a:1', 'reg.io/b:2']);
  });

  it('tells tags from names', async () => {
    const files = layout((entry) =>
      ['v1', 'reg.io/b:2', 'stable'].map((name) => ({
        ...entry,
        annotations: { 'org.opencontainers.image.ref.name': name },
      })),
    );
    await isDemo(write(tarOf(files)), ['reg.io/b:2'], ['v1', 'stable']);
  });

  it('takes the image for this platform, nested or side by side', async () => {
    const arm = {
      mediaType: MANIFEST,
      digest: `sha256:${'0'.repeat(64)}`,
      size: 3,
      platform: { os: 'linux', architecture: 'arm64' },
    };
    const own = { platform: { os: 'linux', architecture: 'amd64' } };
    await isDemo(write(tarOf(layout((entry) => [arm, { ...entry, ...own }]))), []);
    const nested = layout((entry, files) => [
      {
        mediaType: INDEX,
        ...addBlob(files, { schemaVersion: 2, mediaType: INDEX, manifests: [arm, { ...entry, ...own }] }),
      },
    ]);
    await isDemo(write(tarOf(nested)), []);
    await refused(write(tarOf(layout(() => [arm]))), /no image for linux\/amd64/, 'precondition');
  });

  it('refuses blobs that are not what their digests say', async () => {
    for (const part of [layer, config]) {
      const name = `blobs/sha256/${digestOf(part).slice(7)}`;
      const files = { ...layout(), [name]: Buffer.from('other') };
      await refused(write(tarOf(files)), new RegExp(`${digestOf(part)}.*damaged|damaged.*${digestOf(part)}`));
      await refused(writeFolder(files), new RegExp(digestOf(part)));
    }
  });

  it('refuses missing parts', async () => {
    const files = layout();
    delete files[`blobs/sha256/${digestOf(layer).slice(7)}`];
    await refused(write(tarOf(files)), /has no file blobs\/sha256/);
    await refused(writeFolder(files), /blobs\/sha256/);
    await refused(write(saved(['abc/layer.tar'], [])), /has no file abc\/layer.tar/);
    await refused(write(tarBytes([{ name: 'x' }])), /neither an OCI layout .* nor a docker save/);
    await refused(join(folder, 'nothing'), /does not exist/);
  });

  it('refuses documents that are none, or too large', async () => {
    for (const [bytes, words] of [
      [Buffer.from('[1,'), /index.json is not JSON/],
      [Buffer.from('{"manifests":{}}'), /index.json.*manifests/],
      [Buffer.alloc(5_000_000, ' '), /index.json.*5000000 bytes/],
      [Buffer.from('{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}'), /not a digest/],
    ] as const) {
      await refused(write(tarOf({ 'index.json': bytes })), words);
    }
  });

  it('refuses members that lead out, and what is no file', async () => {
    await refused(
      write(saved(['l'], [{ name: '../evil', data: 'x' }])),
      /member "\.\.\/evil".*leads out of the archive/,
    );
    await refused(write(saved(['l'], [{ name: '/etc/evil', data: 'x' }])), /absolute path/);
    await refused(write(saved(['l'], [{ name: 'l', type: '2', link: '../../etc/passwd' }])), /member "l".*leads out/);
    await refused(
      write(
        saved(
          ['l'],
          [
            { name: 'l', type: '2', link: 'm' },
            { name: 'm', type: '2', link: 'l' },
          ],
        ),
      ),
      /has no file l/,
    );
    await refused(write(saved(['l'], [{ name: 'l', type: '3', major: 1, minor: 5 }])), /member "l".*is a char/);
    await refused(
      write(
        saved(
          ['l'],
          [
            { name: 'l', data: 'a' },
            { name: 'l', data: 'b' },
          ],
        ),
      ),
      /comes twice/,
    );
    await refused(write(tarOf(layout()).subarray(0, 2000)), /member "blobs.*too early/);
  });

  it('refuses a folder with links in the place of blobs, and names that climb', async () => {
    writeFileSync(join(folder, 'outside.json'), config);
    const path = writeFolder(layout());
    const [layerFile, configFile] = [layer, config].map((bytes) =>
      join(path, 'blobs/sha256', digestOf(bytes).slice(7)),
    );
    assert.ok(layerFile && configFile);
    for (const [file, bytes] of [
      [layerFile, layer],
      [configFile, config],
    ] as const) {
      rmSync(file);
      writeFileSync(join(folder, 'same'), bytes);
      symlinkSync(join(folder, 'same'), file);
      await refused(path, /symbolic link|is a link/);
      rmSync(file);
      writeFileSync(file, bytes);
    }
    rmSync(join(path, 'index.json'));
    for (const name of ['../outside.json', join(folder, 'outside.json')]) {
      writeFileSync(join(path, 'manifest.json'), JSON.stringify([{ Config: name, Layers: [] }]));
      await refused(path, /leads out of it/);
    }
  });

  it('leaves nothing when it is cancelled', async () => {
    const gone = new AbortController();
    const path = write(tarBytes([{ name: 'large', data: Buffer.alloc(30_000_000) }]));
    const reading = readArchive(path, { scratch: scratch(), workers, platform }, gone.signal);
    setImmediate(() => gone.abort(new Error('client gone')));
    await assert.rejects(reading, /client gone/);
    assert.deepEqual(left(), []);
  });
});
