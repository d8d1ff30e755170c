/** The streaming lists say what the lists say: the same filters, the same order, in parts. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  ContainerState,
  ImageServiceService as images,
  ListContainersRequest,
  ListImagesRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  type PodSandbox,
  PodSandboxState,
  RuntimeServiceService as runtime,
  StreamContainersRequest,
  StreamImagesRequest,
  StreamPodSandboxesRequest,
} from '../../proto/gen/cri/api.ts';
import type { Method } from '../harness/cri-connection.ts';
import { PodLab } from '../harness/pod-lab.ts';

const HOST_NETWORK = {
  securityContext: { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } },
};

suite('streaming lists', { timeout: 900_000 }, () => {
  let lab: PodLab;

  before(async () => {
    lab = await PodLab.start();
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(async () => await lab.close());

  const stream = async <Request, Response>(
    method: Method<Request, Response>,
    request: Request,
  ): Promise<Response[]> => {
    const answers: Response[] = [];
    for await (const answer of lab.berthd.open(method, request) as AsyncIterable<Response>) answers.push(answer);
    return answers;
  };
  type SandboxFilter = Parameters<typeof ListPodSandboxRequest.create>[0];
  const listPods = async (filter: SandboxFilter = {}): Promise<PodSandbox[]> =>
    (await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create(filter))).items;
  const streamPods = async (filter: SandboxFilter = {}): Promise<PodSandbox[][]> =>
    (await stream(runtime.streamPodSandboxes, StreamPodSandboxesRequest.create(filter))).map(
      ({ podSandboxes }) => podSandboxes,
    );

  test('of pods: many in few messages, none in none', async () => {
    assert.deepEqual(await streamPods(), []);
    const pods = await Promise.all(
      Array.from({ length: 105 }, (_, i) =>
        lab.runPod(lab.podConfig({ linux: HOST_NETWORK, labels: { third: String(i % 3 === 0) } })),
      ),
    );
    const parts = await streamPods();
    assert.deepEqual(
      parts.map((part) => part.length),
      [100, 5],
    );
    assert.deepEqual(parts.flat(), await listPods());
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pods[0] ?? '' });
    for (const filter of [
      { labelSelector: { third: 'true' } },
      { state: { state: PodSandboxState.SANDBOX_NOTREADY } },
      { id: pods[7]?.slice(0, 20) ?? '' },
      { id: 'none has this' },
    ]) {
      assert.deepEqual((await streamPods({ filter })).flat(), await listPods({ filter }));
    }
    assert.equal((await streamPods({ filter: { labelSelector: { third: 'true' } } })).flat().length, 35);
  });

  test('of containers', async () => {
    const pod = await lab.runPod();
    const running = await lab.start(pod);
    await lab.create(pod);
    for (const filter of [
      undefined,
      { podSandboxId: pod.slice(0, 20) },
      { state: { state: ContainerState.CONTAINER_RUNNING } },
      { id: running },
    ]) {
      const list = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create({ filter }));
      const parts = await stream(runtime.streamContainers, StreamContainersRequest.create({ filter }));
      assert.deepEqual(
        parts.flatMap(({ containers }) => containers),
        list.containers,
      );
      assert.notEqual(list.containers.length, 0);
    }
    const state = 77 as ContainerState;
    const odd = stream(runtime.streamContainers, StreamContainersRequest.create({ filter: { state: { state } } }));
    await assert.rejects(odd, { code: status.INVALID_ARGUMENT, details: /filter\.state\.state/ });
  });

  test('of images', async () => {
    for (const filter of [undefined, { image: { image: lab.image } }, { image: { image: 'example.com/none:1' } }]) {
      const list = await lab.berthd.call(images.listImages, ListImagesRequest.create({ filter }));
      const parts = await stream(images.streamImages, StreamImagesRequest.create({ filter }));
      assert.deepEqual(
        parts.flatMap((part) => part.images),
        list.images,
      );
    }
    const all = await stream(images.streamImages, StreamImagesRequest.create());
    assert.equal(all[0]?.images[0]?.id, lab.imageId);
  });
});
