/** GetContainerEvents through a whole berthd: what a kubelet with EventedPLEG learns of pods. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { type ClientReadableStream, type StatusObject, status } from '@grpc/grpc-js';

import {
  type ContainerEventResponse,
  ContainerEventType,
  ContainerState,
  GetEventsRequest,
  NamespaceMode,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const HOST_NETWORK = {
  securityContext: { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } },
};
const WORDS: Readonly<Record<number, string>> = {
  [ContainerEventType.CONTAINER_CREATED_EVENT]: 'created',
  [ContainerEventType.CONTAINER_STARTED_EVENT]: 'started',
  [ContainerEventType.CONTAINER_STOPPED_EVENT]: 'stopped',
  [ContainerEventType.CONTAINER_DELETED_EVENT]: 'deleted',
};

/** A subscriber that has asked, and collects. */
class Subscriber {
  readonly found: ContainerEventResponse[] = [];
  readonly stream: ClientReadableStream<ContainerEventResponse>;
  readonly ended: Promise<unknown>;

  private constructor(stream: ClientReadableStream<ContainerEventResponse>) {
    this.stream = stream;
    this.ended = Promise.race([once(stream, 'end'), once(stream, 'error')]).catch((err: unknown) => err);
  }

  static async open(lab: PodLab, reads: boolean): Promise<Subscriber> {
    const stream = lab.berthd.open(runtime.getContainerEvents, GetEventsRequest.create());
    const subscriber = new Subscriber(stream);
    stream.on('error', () => {});
    await once(stream, 'metadata');
    if (reads) subscriber.read();
    // Fills gRPC's own buffer and no more; a stream that nobody has begun to read takes all that comes.
    else stream.read(0);
    return subscriber;
  }

  read(): void {
    this.stream.on('data', (event: ContainerEventResponse) => this.found.push(event));
  }

  /** What has come of these, in order. */
  of(...ids: readonly string[]): string[] {
    return this.found
      .filter(({ containerId }) => ids.includes(containerId))
      .map((event) => `${WORDS[event.containerEventType]} ${ids.indexOf(event.containerId)}`);
  }

  async has(id: string, type: ContainerEventType): Promise<ContainerEventResponse> {
    return await eventually(`event ${WORDS[type]} of ${id}`, () =>
      this.found.find((event) => event.containerId === id && event.containerEventType === type),
    );
  }
}

suite('events', { timeout: 900_000 }, () => {
  let lab: PodLab;

  before(async () => {
    lab = await PodLab.start({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(async () => await lab.close());

  test('a pod lives and dies, for two subscribers alike', async () => {
    const [first, second] = [await Subscriber.open(lab, true), await Subscriber.open(lab, true)];
    const beforeNs = BigInt(Date.now()) * 1_000_000n;
    const pod = await lab.runPod();
    const short = await lab.start(pod, { command: ['sh', '-c', 'exit 3'] });
    await lab.ended(short);
    const long = await lab.start(pod);
    await lab.berthd.call(runtime.removeContainer, { containerId: short });
    await lab.berthd.call(runtime.stopContainer, { containerId: long, timeout: 0n });
    await lab.removePod(pod);
    await first.has(pod, ContainerEventType.CONTAINER_DELETED_EVENT);
    await second.has(pod, ContainerEventType.CONTAINER_DELETED_EVENT);
    assert.deepEqual(first.of(pod, short, long), [
      'created 0',
      'started 0',
      'created 1',
      'started 1',
      'stopped 1',
      'created 2',
      'started 2',
      'deleted 1',
      'stopped 2',
      'stopped 0',
      'deleted 2',
      'deleted 0',
    ]);
    assert.deepEqual(second.found, first.found);

    const started = await first.has(pod, ContainerEventType.CONTAINER_STARTED_EVENT);
    assert.equal(started.podSandboxStatus?.state, PodSandboxState.SANDBOX_READY);
    assert.notEqual(started.podSandboxStatus.network?.ip, '');
    const stopped = await first.has(short, ContainerEventType.CONTAINER_STOPPED_EVENT);
    assert.equal(stopped.podSandboxStatus?.id, pod);
    const [status] = stopped.containersStatuses;
    assert.deepEqual(
      [stopped.containersStatuses.length, status?.id, status?.state, status?.exitCode, status?.reason],
      [1, short, ContainerState.CONTAINER_EXITED, 3, 'Error'],
    );
    assert.ok(status && status.startedAt > 0n && status.finishedAt >= status.startedAt);
    const deleted = await first.has(short, ContainerEventType.CONTAINER_DELETED_EVENT);
    assert.deepEqual(
      deleted.containersStatuses.map(({ id }) => id),
      [long],
    );
    // The kubelet finds the pod of every event by its sandbox's status, also the last.
    const last = await first.has(pod, ContainerEventType.CONTAINER_DELETED_EVENT);
    assert.deepEqual([last.podSandboxStatus?.id, last.containersStatuses], [pod, []]);
    const times = first.found.map(({ createdAt }) => createdAt);
    assert.ok(
      times[0] !== undefined && times[0] >= beforeNs && times.every((at, i) => i === 0 || at >= (times[i - 1] ?? 0n)),
    );
    for (const { stream } of [first, second]) stream.cancel();
  });

  test('a pod that is stopped with what runs in it has stopped last', async () => {
    const subscriber = await Subscriber.open(lab, true);
    const pod = await lab.runPod();
    const ids = [await lab.start(pod), await lab.start(pod)];
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    const last = await subscriber.has(pod, ContainerEventType.CONTAINER_STOPPED_EVENT);
    const stops = subscriber.of(pod, ...ids).filter((event) => event.startsWith('stopped'));
    assert.deepEqual([stops.slice(0, 2).sort(), stops[2]], [['stopped 1', 'stopped 2'], 'stopped 0']);
    assert.equal(last.podSandboxStatus?.state, PodSandboxState.SANDBOX_NOTREADY);
    assert.ok(last.containersStatuses.every(({ state }) => state === ContainerState.CONTAINER_EXITED));
    subscriber.stream.cancel();
  });

  test('what could not be made has none', async () => {
    const pod = await lab.runPod();
    const subscriber = await Subscriber.open(lab, true);
    await lab.refused(pod, { linux: { securityContext: { runAsUsername: 'nobody-knows-me' } } });
    const id = await lab.create(pod);
    await subscriber.has(id, ContainerEventType.CONTAINER_CREATED_EVENT);
    assert.equal(subscriber.found.length, 1);
    subscriber.stream.cancel();
  });

  test('a subscriber that does not read delays nobody, and misses events when there are too many', async () => {
    const quick = await Subscriber.open(lab, true);
    const slow = await Subscriber.open(lab, false);
    const dropped = async (): Promise<number> =>
      Number(/^berth_events_dropped_total (\d+)/m.exec(await lab.berthd.metrics())?.[1]);
    assert.equal(await dropped(), 0);
    const config = { linux: HOST_NETWORK, annotations: { large: 'x'.repeat(20_000) } };
    const pods: string[] = [];
    while ((await dropped()) === 0) {
      const more = await Promise.all(Array.from({ length: 50 }, () => lab.runPod(lab.podConfig(config))));
      await Promise.all(more.map((pod) => lab.removePod(pod)));
      pods.push(...more);
      assert.ok(pods.length < 1000, 'none was dropped in 4000 events');
    }
    await eventually('every event', () => quick.found.length === pods.length * 4 || undefined);
    // The newest are kept: they say how things are.
    slow.read();
    const lost = await dropped();
    await eventually('the rest', () => slow.found.length === pods.length * 4 - lost || undefined);
    assert.deepEqual(slow.found.at(-1), quick.found.at(-1));
    for (const { stream } of [quick, slow]) stream.cancel();
  });

  test('an exit while no berthd runs is there in a list; subscribers do not keep berthd from stopping', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const { pid } = await lab.info(id);
    const subscriber = await Subscriber.open(lab, true);
    const told = once(subscriber.stream, 'status') as Promise<[StatusObject]>;
    await lab.berthd.end('SIGTERM');
    const [{ code, details }] = await told;
    assert.deepEqual([code, details], [status.OK, 'OK'], 'it was ended, and not cut off when its time was over');
    process.kill(pid, 'SIGKILL');
    await lab.berthd.start();
    assert.equal((await lab.ended(id)).exitCode, 137);
  });
});
