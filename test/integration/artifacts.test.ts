/** OCI artifacts of a whole berthd: pulled as images are, seen as volumes, refused as root filesystems. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  ImageStatusRequest,
  ImageServiceService as images,
  ListImagesRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../proto/gen/cri/api.ts';
import { type FakeArtifactFile, FakeRegistry, fakeArtifact } from '../fakes/registry.ts';
import { PodLab } from '../harness/pod-lab.ts';

const TYPE = 'application/vnd.example.model';

suite('OCI artifacts', { timeout: 900_000 }, () => {
  let lab: PodLab;
  let registry: FakeRegistry;
  let pod: string;

  before(async () => {
    registry = await FakeRegistry.start();
    lab = await PodLab.start();
  });
  afterEach(async (t) => {
    await lab.afterTest(t);
  });
  after(async () => {
    await registry?.close();
    await lab?.close();
  });

  const named = (text: string): { image: { image: string } } => ({ image: { image: text } });
  const pull = async (tag: string, files: readonly FakeArtifactFile[]): Promise<{ id: string; reference: string }> => {
    registry.add('models', fakeArtifact(files), tag);
    const reference = `${registry.host}/models:${tag}`;
    const { imageRef } = await lab.berthd.call(images.pullImage, PullImageRequest.fromPartial(named(reference)));
    return { id: imageRef, reference };
  };
  const remove = async (reference: string): Promise<void> => {
    await lab.berthd.call(images.removeImage, RemoveImageRequest.fromPartial(named(reference)));
  };
  const layersOnDisk = (): number => readdirSync(join(lab.berthd.root, 'image/layers')).length;
  const text = (content: string): Buffer => Buffer.from(content);

  test('are pulled, listed, mounted with their files under their names, and removed', async () => {
    const before = layersOnDisk();
    const { id, reference } = await pull('v1', [
      { name: 'weights.bin', bytes: text('weights\n') },
      { name: 'conf/deep/a b.json', bytes: text('{}\n') },
      { name: '.wh.weights.bin', bytes: text('no whiteout\n') },
      { bytes: text('without a name\n') },
    ]);
    const list = await lab.berthd.call(images.listImages, ListImagesRequest.create());
    const shown = list.images.find((image) => image.id === id);
    assert.deepEqual(shown?.repoTags, [reference]);
    const found = await lab.berthd.call(
      images.imageStatus,
      ImageStatusRequest.fromPartial({ ...named(reference), verbose: true }),
    );
    assert.equal((JSON.parse(found.info['info'] ?? '{}') as { artifactType: string }).artifactType, TYPE);
    pod = await lab.runPod();
    const mount = { containerPath: '/model', image: { image: reference }, readonly: true };
    const script =
      'cd /model && find . -type f -exec stat -c "%n %a %u:%g" {} + | sort && cat weights.bin .wh.* sha256-*';
    const seen = await lab.output(pod, { command: ['/bin/sh', '-c', script], mounts: [mount] });
    const lines = seen.split('\n');
    assert.deepEqual(
      lines.filter((line) => !line.startsWith('./sha256-')),
      ['./.wh.weights.bin 644 0:0', './conf/deep/a b.json 644 0:0', './weights.bin 644 0:0'].concat([
        'weights',
        'no whiteout',
        'without a name',
      ]),
    );
    assert.equal(lines.length, 7);
    const part = { ...mount, containerPath: '/conf.json', imageSubPath: 'conf/deep/a b.json' };
    assert.equal(await lab.output(pod, { command: ['cat', '/conf.json'], mounts: [part] }), '{}');
    const holder = await lab.start(pod, { mounts: [mount] });
    assert.match((await lab.tryExec(holder, 'sh', '-c', 'echo > /model/x')).text, /Read-only file system/);
    const refused = await lab.berthd.fails(images.removeImage, RemoveImageRequest.fromPartial(named(reference)));
    assert.equal(refused.code, status.FAILED_PRECONDITION);
    assert.equal(layersOnDisk(), before + 4);
    await lab.removePod(pod);
    await remove(reference);
    assert.equal(layersOnDisk(), before);
  });

  test('are refused as the image of a container, and as a volume when they have no file', async () => {
    const { reference } = await pull('v2', [{ name: 'x', bytes: text('x') }]);
    pod = await lab.runPod();
    const asRoot = await lab.refused(pod, { image: { image: reference } });
    assert.equal(asRoot.code, status.INVALID_ARGUMENT);
    assert.match(asRoot.details, /config\.image\.image: .* is an artifact \(application\/vnd\.example\.model\)/);
    const empty = await pull('empty', []);
    const mount = { containerPath: '/x', image: { image: empty.reference }, readonly: true };
    const without = await lab.refused(pod, { mounts: [mount] });
    assert.match(without.details, /ImageVolumeMountFailed: .* is an artifact without a file/);
    await lab.removePod(pod);
    await Promise.all([remove(reference), remove(empty.reference)]);
  });

  test('are looked into, checked and not saved by an operator', async () => {
    const { id, reference } = await pull('v4', [{ name: 'a/file', bytes: text('mounted\n') }]);
    const { folder } = await lab.berthd.call(AdminService.mountImage, { image: reference, folder: '' });
    assert.equal(readFileSync(join(folder, 'a/file'), 'utf8'), 'mounted\n');
    await lab.berthd.call(AdminService.unmountImage, { target: folder });
    const checked = await lab.berthd.call(AdminService.checkImages, { images: [reference] });
    assert.deepEqual(
      checked.images.map((image) => [image.id, image.problems]),
      [[id, []]],
    );
    const history = await lab.berthd.fails(AdminService.imageHistory, { image: reference });
    assert.match(history.details, /is an artifact \(application\/vnd\.example\.model\), which has no history/);
    await remove(reference);
  });

  test('have folders in them that oras packed, and nothing beside those', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'berth-artifact-'));
    mkdirSync(join(folder, 'docs/sub'), { recursive: true });
    writeFileSync(join(folder, 'docs/sub/page'), 'page\n');
    writeFileSync(join(folder, 'outside'), 'outside\n');
    const packed = (...paths: string[]): Buffer =>
      gzipSync(execFileSync('tar', ['-C', folder, '--owner=0', '--group=0', '-cf', '-', ...paths]));
    const annotations = { 'io.deis.oras.content.unpack': 'true' };
    const before = layersOnDisk();
    const { reference } = await pull('folder', [
      { name: 'docs', bytes: packed('docs'), annotations },
      { name: 'beside', bytes: text('beside\n') },
    ]);
    pod = await lab.runPod();
    const mount = { containerPath: '/m', image: { image: reference }, readonly: true };
    const seen = await lab.output(pod, { command: ['cat', '/m/docs/sub/page', '/m/beside'], mounts: [mount] });
    assert.equal(seen, 'page\nbeside');
    await lab.removePod(pod);
    await remove(reference);
    registry.add('models', fakeArtifact([{ name: 'docs', bytes: packed('docs', 'outside'), annotations }]), 'bad');
    const request = PullImageRequest.fromPartial(named(`${registry.host}/models:bad`));
    const refused = await lab.berthd.fails(images.pullImage, request);
    assert.match(refused.details, /"outside" in the archive of the folder "docs" is outside of it/);
    assert.equal(layersOnDisk(), before);
    rmSync(folder, { recursive: true });
  });

  test('are garbage like images when no container uses them, and survive kill -9', async () => {
    const { id, reference } = await pull('v3', [{ name: 'kept', bytes: text('kept\n') }]);
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    pod = await lab.runPod();
    const mount = { containerPath: '/m', image: { image: reference }, readonly: true };
    assert.equal(await lab.output(pod, { command: ['cat', '/m/kept'], mounts: [mount] }), 'kept');
    await lab.removePod(pod);
    const { items } = await lab.berthd.call(AdminService.pruneImages, { dryRun: true, unusedImages: true });
    assert.ok(items.some(({ kind, name }) => kind === 'image' && name === reference));
    await remove(id);
    assert.doesNotMatch(readFileSync('/proc/self/mounts', 'utf8'), /image-\d/);
  });
});
