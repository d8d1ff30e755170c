import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';

import { BerthError } from '../../base/errors.ts';
import type { TraceContext } from './trace-context.ts';
import { type EndedSpan, Tracer } from './tracer.ts';

const PARENT: TraceContext = {
  traceId: '4bf92f3577b34da6a3ce929d0e0e4736',
  spanId: '00f067aa0ba902b7',
  isSampled: true,
  state: 'vendor=1',
};
const NOTHING = (): Record<string, never> => ({});

function collecting(ratePerMillion = 0, random?: () => number): { tracer: Tracer; spans: EndedSpan[] } {
  const tracer = new Tracer(random);
  const spans: EndedSpan[] = [];
  tracer.sendTo({ offer: (span) => void spans.push(span), waiting: 0, close: async () => {} }, ratePerMillion);
  return { tracer, spans };
}

function call(parent?: TraceContext, isPoll = false) {
  return { method: 'RunPodSandbox', parent, isPoll, facts: { 'k8s.pod.name': 'web' } };
}

test("a sampled caller's trace goes on, and what happens within a call is below it", async () => {
  const { tracer, spans } = collecting();
  await tracer.inCall(
    call(PARENT),
    async () => {
      await Promise.all([
        tracer.inSpan('make namespaces', {}, async () => await turn()),
        tracer.inSpan('attach network', {}, async () => {
          await turn();
          await tracer.inSpan('bridge ADD', { 'process.executable.name': 'bridge' }, async () => await turn());
        }),
      ]);
    },
    () => ({ 'berth.sandbox.id': 'abc' }),
  );
  const byName = new Map(spans.map((span) => [span.name, span]));
  const root = byName.get('RunPodSandbox');
  assert.ok(root && spans.length === 4);
  assert.deepEqual(
    [root.traceId, root.parentId, root.state, root.kind],
    [PARENT.traceId, PARENT.spanId, 'vendor=1', 'server'],
  );
  assert.deepEqual(root.facts, { 'k8s.pod.name': 'web', 'berth.sandbox.id': 'abc' });
  assert.equal(byName.get('make namespaces')?.parentId, root.spanId);
  assert.equal(byName.get('attach network')?.parentId, root.spanId);
  assert.equal(byName.get('bridge ADD')?.parentId, byName.get('attach network')?.spanId);
  assert.equal(byName.get('bridge ADD')?.kind, 'client');
  assert.equal(new Set(spans.map(({ spanId }) => spanId)).size, 4);
  for (const { startMs, endMs } of spans) assert.ok(startMs >= root.startMs && endMs <= root.endMs && startMs <= endMs);
  assert.ok(Math.abs(root.endMs - Date.now()) < 60_000);
});

test('a failure is told and thrown on', async () => {
  const { tracer, spans } = collecting();
  const failure = new BerthError('notFound', 'no such image');
  const failing = async (): Promise<void> => {
    throw failure;
  };
  await assert.rejects(tracer.inCall(call(PARENT), failing, NOTHING), failure);
  assert.deepEqual([spans[0]?.problem, spans[0]?.facts['error.type']], ['no such image', 'notFound']);
});

test('sampling: the caller decides; others by share, polls never; and nothing at all while it is off', async () => {
  const drawn = [0.09, 0.11, 0];
  const { tracer, spans } = collecting(100_000, () => drawn.shift() ?? 1);
  const work = async (): Promise<boolean> => tracer.isRecording;
  assert.equal(await tracer.inCall(call({ ...PARENT, isSampled: false }), work, NOTHING), false);
  assert.equal(await tracer.inCall(call(), work, NOTHING), true);
  assert.equal(await tracer.inCall(call(), work, NOTHING), false);
  assert.equal(await tracer.inCall(call(undefined, true), work, NOTHING), false);
  assert.equal(spans.length, 1);
  assert.equal(spans[0]?.parentId, '');
  assert.match(spans[0]?.traceId ?? '', /^[0-9a-f]{32}$/);
  tracer.sendTo(undefined, 0);
  assert.equal(tracer.isOn, false);
  assert.equal(await tracer.inCall(call(PARENT), work, NOTHING), false);
  assert.equal(spans.length, 1);
});

test('what goes on after its call is still part of it; work outside of calls is none', async () => {
  const { tracer, spans } = collecting();
  const { promise: left, resolve: leave } = Promise.withResolvers<void>();
  let late: Promise<void> | undefined;
  await tracer.inCall(
    call(PARENT),
    async () => {
      late = left.then(async () => await tracer.inSpan('undo', {}, async () => {}));
    },
    NOTHING,
  );
  leave();
  await late;
  await tracer.inSpan('nobody asked', {}, async () => {});
  assert.deepEqual(
    spans.map(({ name }) => name),
    ['RunPodSandbox', 'undo'],
  );
  assert.equal(spans[1]?.parentId, spans[0]?.spanId);
});
