import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { silentMeter } from '../base/meter.ts';
import { type PodEvent, PodEvents } from './pod-events.ts';
import { RecordIndex } from './record-index.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';

const nowhere = { put() {}, delete() {} };
const PAUSE = { pid: 1, startTime: 1 };
const sandboxRecord = (state: SandboxRecord['state'], id = 'pod'): SandboxRecord =>
  ({ id, name: id, state, createdAtUs: 1, pause: state === 'stopped' ? undefined : PAUSE }) as unknown as SandboxRecord;
const containerRecord = (state: ContainerRecord['state'], more: object = {}): ContainerRecord =>
  ({ id: 'c', name: 'c', sandboxId: 'pod', state, createdAtUs: 1, ...more }) as unknown as ContainerRecord;

interface Bench {
  readonly sandboxes: RecordIndex<SandboxRecord>;
  readonly containers: RecordIndex<ContainerRecord>;
  readonly events: PodEvents;
  readonly stop: AbortController;
  dropped(): number;
}

function bench(): Bench {
  let dropped = 0;
  let nowUs = 100;
  const sandboxes = new RecordIndex<SandboxRecord>('sandbox', nowhere, []);
  const containers = new RecordIndex<ContainerRecord>('container', nowhere, []);
  const stop = new AbortController();
  const meter = {
    ...silentMeter,
    eventDropped() {
      dropped += 1;
    },
  };
  const clock = {
    monotonicMs: () => 0,
    nowUs() {
      nowUs += 1;
      return nowUs;
    },
  };
  const events = new PodEvents({ sandboxes, containers, clock, meter }, stop.signal);
  return { sandboxes, containers, events, stop, dropped: () => dropped };
}

/** Subscribes at once; end() gives what came until then. */
function listen(events: PodEvents): { end(): Promise<PodEvent[]> } {
  const leave = new AbortController();
  const found: PodEvent[] = [];
  const iterator = events.subscribe(leave.signal);
  const done = (async () => {
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) found.push(next.value);
    return found;
  })();
  return {
    async end() {
      // What is queued comes without waiting for anything: a turn of the event loop is enough for all.
      await new Promise((resolve) => setImmediate(resolve));
      leave.abort();
      return await done;
    },
  };
}

const inShort = (found: readonly PodEvent[]): string[] => found.map(({ type, id }) => `${type} ${id}`);

suite('events of pods', () => {
  test('tell the life of a sandbox', async () => {
    const { sandboxes, events } = bench();
    const listener = listen(events);
    for (const state of ['creating', 'ready', 'ready', 'notReady', 'stopped'] as const)
      sandboxes.put(sandboxRecord(state));
    sandboxes.delete('pod');
    const found = await listener.end();
    assert.deepEqual(inShort(found), ['created pod', 'started pod', 'stopped pod', 'deleted pod']);
    assert.deepEqual(
      found.map(({ sandbox, atUs }) => [sandbox.state, atUs]),
      [
        ['ready', 101],
        ['ready', 102],
        ['stopped', 103],
        ['stopped', 104],
      ],
    );
  });

  test('a sandbox has stopped after its containers, and at once when its pause has died', async () => {
    const { sandboxes, containers, events } = bench();
    for (const id of ['pod', 'dead']) sandboxes.put(sandboxRecord('ready', id));
    containers.put(containerRecord('running'));
    const listener = listen(events);
    sandboxes.put(sandboxRecord('notReady'));
    containers.put(containerRecord('exited'));
    sandboxes.put(sandboxRecord('stopped'));
    sandboxes.put({ ...sandboxRecord('notReady', 'dead'), pause: undefined });
    sandboxes.put(sandboxRecord('stopped', 'dead'));
    assert.deepEqual(inShort(await listener.end()), ['stopped c', 'stopped pod', 'stopped dead']);
  });

  test('say nothing of a sandbox that no client has seen, and something of one that could not be undone', async () => {
    const { sandboxes, events } = bench();
    const listener = listen(events);
    sandboxes.put(sandboxRecord('creating', 'undone'));
    sandboxes.delete('undone');
    sandboxes.put(sandboxRecord('creating', 'stuck'));
    sandboxes.put(sandboxRecord('unknown', 'stuck'));
    sandboxes.put(sandboxRecord('stopped', 'stuck'));
    sandboxes.delete('stuck');
    assert.deepEqual(inShort(await listener.end()), ['created stuck', 'deleted stuck']);
  });

  const lives: readonly [string, readonly (ContainerRecord | undefined)[], readonly string[]][] = [
    [
      'that runs and ends',
      ['creating', 'created', 'running', 'exited'].map((state) => containerRecord(state as ContainerRecord['state'])),
      ['created', 'started', 'stopped'],
    ],
    [
      'that has ended before the runtime answers',
      [
        containerRecord('creating'),
        containerRecord('created'),
        containerRecord('created', { startedAtUs: 5 }),
        containerRecord('exited', { startedAtUs: 5, exit: { reason: 'Completed' } }),
      ],
      ['created', 'started', 'stopped'],
    ],
    [
      'that could not be started',
      [
        containerRecord('created'),
        containerRecord('created', { startedAtUs: 5 }),
        containerRecord('exited', { startedAtUs: 5, exit: { reason: 'StartError' } }),
      ],
      ['created', 'stopped'],
    ],
    [
      'that was killed before it was started',
      [containerRecord('created'), containerRecord('exited', { exit: { reason: 'Error' } }), undefined],
      ['created', 'stopped', 'deleted'],
    ],
    [
      'that is removed while it runs',
      [containerRecord('running'), undefined],
      ['created', 'started', 'stopped', 'deleted'],
    ],
    ['that is removed before it was started', [containerRecord('created'), undefined], ['created', 'deleted']],
    ['that never came to be', [containerRecord('creating'), undefined], []],
  ];
  for (const [title, records, types] of lives) {
    test(`tell the life of a container ${title}`, async () => {
      const { sandboxes, containers, events } = bench();
      sandboxes.put(sandboxRecord('ready'));
      const listener = listen(events);
      for (const record of records) {
        if (record) containers.put(record);
        else containers.delete('c');
      }
      assert.deepEqual(
        inShort(await listener.end()),
        types.map((type) => `${type} c`),
      );
    });
  }

  test('have the whole pod as it is after them, and nothing of other pods', async () => {
    const { sandboxes, containers, events } = bench();
    for (const id of ['pod', 'other']) sandboxes.put(sandboxRecord('ready', id));
    containers.put(containerRecord('running', { id: 'foreign', name: 'foreign', sandboxId: 'other' }));
    containers.put(containerRecord('running', { id: 'old', name: 'old' }));
    containers.put(containerRecord('creating', { id: 'coming', name: 'coming' }));
    const listener = listen(events);
    containers.put(containerRecord('created', { createdAtUs: 2 }));
    containers.put(containerRecord('exited', { id: 'old', name: 'old' }));
    containers.delete('c');
    const found = await listener.end();
    assert.deepEqual(
      found.map((event) => [event.type, event.sandbox.id, event.containers.map(({ id, state }) => `${id} ${state}`)]),
      [
        ['created', 'pod', ['c created', 'old running']],
        ['stopped', 'pod', ['c created', 'old exited']],
        ['deleted', 'pod', ['old exited']],
      ],
    );
  });

  test('come to every subscriber, from when it asks on', async () => {
    const { sandboxes, events } = bench();
    const early = listen(events);
    sandboxes.put(sandboxRecord('ready', 'a'));
    const late = listen(events);
    sandboxes.put(sandboxRecord('ready', 'b'));
    assert.deepEqual(inShort(await early.end()), ['created a', 'started a', 'created b', 'started b']);
    assert.deepEqual(inShort(await late.end()), ['created b', 'started b']);
  });

  test('wait for a slow subscriber up to a limit; then the oldest are dropped and counted', async () => {
    const { sandboxes, events, dropped } = bench();
    const slow = events.subscribe(new AbortController().signal);
    const first = slow.next();
    const quick = listen(events);
    for (let i = 0; i < 600; i += 1) {
      sandboxes.put(sandboxRecord('ready', `pod-${i}`));
      if (i % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(inShort(await quick.end()).length, 1200);
    // One was handed over, 1000 wait.
    assert.equal(dropped(), 199);
    assert.deepEqual((await first).value?.id, 'pod-0');
    const rest: string[] = [];
    for (let i = 0; i < 1000; i += 1) rest.push((await slow.next()).value?.id ?? '');
    assert.deepEqual([rest[0], rest.at(-1)], ['pod-100', 'pod-599']);
  });

  test('end when berthd stops', async () => {
    const { events, stop } = bench();
    const waiting = events.subscribe(new AbortController().signal).next();
    stop.abort();
    assert.deepEqual(await waiting, { done: true, value: undefined });
  });
});
