import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ApiException, type EventsV1Event } from '@kubernetes/client-node';

import type { Notice } from '../base/notices.ts';
import { EventRecorder } from './event-recorder.ts';

type Creation = { namespace: string; body: EventsV1Event };
type Patch = { name: string; namespace: string; body: { series: { count: number } } };

/** A recorder whose events go nowhere, with a clock that stands still until it is moved. */
class Scene {
  readonly created: Creation[] = [];
  readonly patched: Patch[] = [];
  readonly problems: string[] = [];
  readonly errors: unknown[] = [];
  nowMs = 1_700_000_000_000;
  readonly recorder = new EventRecorder({
    api: {
      createNamespacedEvent: async (request: Creation) => {
        this.#failIfTold();
        this.created.push(request);
        return request.body;
      },
      patchNamespacedEvent: async (request: Patch) => {
        this.patched.push(request);
        return {} as EventsV1Event;
      },
    } as ConstructorParameters<typeof EventRecorder>[0]['api'],
    nodeName: 'n1',
    onProblem: (problem) => this.problems.push(problem),
    now: () => this.nowMs,
    retryMs: 1,
  });

  async tell(notice: Notice): Promise<void> {
    this.recorder.record(notice);
    await this.recorder.settled();
  }

  #failIfTold(): void {
    const error = this.errors.shift();
    if (error !== undefined) throw error;
  }
}

const hanging = (message = 'runc did not end'): Notice => ({ reason: 'ProgramHanging', message });

test('an event is about the node, or about the pod', async () => {
  const scene = new Scene();
  await scene.tell(hanging());
  await scene.tell({ reason: 'ContainerLost', message: 'gone', pod: { namespace: 'blue', name: 'web', uid: 'u1' } });
  const [node, pod] = scene.created;
  assert.equal(node?.namespace, 'default');
  assert.deepEqual(node?.body.regarding, { apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'n1' });
  assert.deepEqual(
    [node?.body.type, node?.body.reason, node?.body.note, node?.body.reportingInstance],
    ['Warning', 'ProgramHanging', 'runc did not end', 'n1'],
  );
  assert.equal(pod?.namespace, 'blue');
  assert.equal(pod?.body.regarding?.uid, 'u1');
  assert.match(pod?.body.metadata?.name ?? '', /^web\.[0-9a-f]{16}$/);
});

test('the same again raises the count, at most once a minute; after ten minutes it is another event', async () => {
  const scene = new Scene();
  for (let i = 0; i < 5; i++) await scene.tell(hanging());
  assert.deepEqual([scene.created.length, scene.patched.length], [1, 0]);
  scene.nowMs += 61_000;
  await scene.tell(hanging());
  await scene.tell(hanging());
  assert.deepEqual(
    scene.patched.map(({ name, body }) => [name === scene.created[0]?.body.metadata?.name, body.series.count]),
    [[true, 6]],
  );
  scene.nowMs += 601_000;
  await scene.tell(hanging());
  assert.equal(scene.created.length, 2);
});

test('a node in trouble sends a few events, and says how many it kept', async () => {
  const scene = new Scene();
  for (let i = 0; i < 40; i++) await scene.tell(hanging(`program ${i}`));
  assert.equal(scene.created.length, 25);
  assert.match(scene.problems.at(-1) ?? '', /15 events were dropped/);
  scene.nowMs += 24_000;
  for (let i = 50; i < 60; i++) await scene.tell(hanging(`program ${i}`));
  assert.equal(scene.created.length, 27);
});

test('an API server in trouble is tried again; what it refuses is not', async () => {
  const scene = new Scene();
  const answer = (code: number) => new ApiException(code, 'no', JSON.stringify({ message: 'go away' }), {});
  scene.errors.push(answer(503), new Error('connection refused'));
  await scene.tell(hanging());
  assert.equal(scene.created.length, 1);
  assert.deepEqual(scene.problems, ['the API server answers 503: go away', 'connection refused', '']);
  scene.errors.push(answer(403), new Error('never thrown'));
  await scene.tell(hanging('another'));
  assert.equal(scene.created.length, 1);
  assert.equal(scene.errors.length, 1);
});

test('a long message is cut where a character ends', async () => {
  const scene = new Scene();
  await scene.tell(hanging('é'.repeat(2000)));
  const note = scene.created[0]?.body.note ?? '';
  assert.ok(Buffer.byteLength(note) <= 1024);
  assert.match(note, /^é+…$/);
});
