import assert from 'node:assert/strict';
import { test } from 'node:test';

import { matchesContainer, matchesSandbox } from './filters.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';

const sandbox = (fields: {
  id?: string;
  state?: SandboxRecord['state'];
  labels?: Record<string, string>;
}): SandboxRecord =>
  ({ id: 'abc', state: 'ready', ...fields, spec: { labels: fields.labels ?? {} } }) as unknown as SandboxRecord;
const container = (fields: { state?: ContainerRecord['state']; labels?: Record<string, string> }): ContainerRecord =>
  ({
    id: 'abc',
    sandboxId: 'def',
    state: 'running',
    ...fields,
    spec: { labels: fields.labels ?? {} },
  }) as unknown as ContainerRecord;

test('conditions hold together', () => {
  const record = sandbox({ labels: { app: 'web', tier: 'front' } });
  assert.ok(matchesSandbox(record, {}));
  assert.ok(matchesSandbox(record, { id: 'ab', ready: true, labels: { app: 'web' } }));
  assert.ok(!matchesSandbox(record, { id: 'ab', ready: true, labels: { app: 'db' } }));
  assert.ok(!matchesSandbox(record, { id: 'x', ready: true }));
  assert.ok(!matchesSandbox(record, { labels: { app: 'web', toString: '' } }));
});

test('only ready is ready', () => {
  for (const state of ['notReady', 'stopped', 'unknown'] as const) {
    assert.ok(matchesSandbox(sandbox({ state }), { ready: false }), state);
    assert.ok(!matchesSandbox(sandbox({ state }), { ready: true }), state);
  }
});

test('what is still being made is not there', () => {
  assert.ok(!matchesSandbox(sandbox({ state: 'creating' }), {}));
  assert.ok(!matchesContainer(container({ state: 'creating' }), {}));
});

test('containers by sandbox, state and labels', () => {
  const record = container({ labels: { a: '1' } });
  assert.ok(matchesContainer(record, { sandboxId: 'de', state: 'running', labels: { a: '1' } }));
  assert.ok(!matchesContainer(record, { sandboxId: 'de', state: 'exited' }));
  assert.ok(!matchesContainer(record, { sandboxId: 'xx' }));
});
