/** Facts about images. */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  ImageFsInfoRequest,
  ImageStatusRequest,
  ImageServiceService as images,
  ListImagesRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../../proto/gen/cri/api.ts';
import { Server } from './server.ts';

let server: Server;

before(async () => {
  server = await Server.connect();
});
afterEach(async () => await server.removeAll());
// Without any fact that was asked for in this file there is none.
after(async () => await (server as Server | undefined)?.[Symbol.asyncDispose]());

const imageOf = async (image: string) =>
  (await server.connection.call(images.imageStatus, ImageStatusRequest.create({ image: { image } }))).image;
const remove = async (image: string) =>
  await server.connection.call(images.removeImage, RemoveImageRequest.create({ image: { image } }));

test('fact 55: one id everywhere: pulled, listed, in the container and its status', async () => {
  const reference = await server.pull(server.facts.busybox);
  const image = await imageOf(server.facts.busybox);
  assert.equal(reference, image?.id);
  const container = await server.status(await server.create(await server.runPod()));
  assert.equal(container.imageId, image?.id);
});

test('fact 56: the status has the name that people gave, and a digest', async () => {
  const container = await server.status(await server.create(await server.runPod()));
  assert.equal(container.image?.image, server.facts.busybox);
  assert.match(container.imageRef, /@?sha256:[0-9a-f]{64}$/);
});

test('fact 57: an image goes by one of its names, with all of them', async () => {
  await server.pull(server.facts.rich);
  await server.pull(server.facts.again);
  assert.equal((await imageOf(server.facts.again))?.repoTags.length, 2);
  await remove(server.facts.again);
  assert.equal(await imageOf(server.facts.again), undefined);
  assert.equal(await imageOf(server.facts.rich), undefined);
});

test('fact 59: who an image runs as', async () => {
  await server.pull(server.facts.rich);
  const rich = await imageOf(server.facts.rich);
  assert.equal(rich?.username, 'user');
  const plain = await imageOf(server.facts.busybox);
  assert.ok(plain?.uid === undefined || plain.uid.value === 0n);
});

test('fact 61: a filter finds one image', async () => {
  const request = ListImagesRequest.create({ filter: { image: { image: server.facts.busybox } } });
  const found = (await server.connection.call(images.listImages, request)).images;
  assert.equal(found.length, 1);
  assert.ok(found[0]?.repoTags.includes(server.facts.busybox));
});

test('fact 62: an image that is not there, and a reference that is none', async () => {
  const unknown = `${server.facts.busybox}-unknown`;
  const request = PullImageRequest.create({ image: { image: unknown } });
  await server.connection.fails(images.pullImage, request);
  for (const image of ['', 'UPPER/case:1', 'a b', 'x@sha256:short']) {
    const { code } = await server.connection.fails(images.pullImage, PullImageRequest.create({ image: { image } }));
    assert.notEqual(code, status.OK);
  }
});

test('fact 66: file systems of images and containers', async () => {
  const info = await server.connection.call(images.imageFsInfo, ImageFsInfoRequest.create());
  const [first] = info.imageFilesystems;
  assert.match(first?.fsId?.mountpoint ?? '', /^\//);
  assert.ok((first?.usedBytes?.value ?? 0n) > 0n);
});
