import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { test } from 'node:test';

import { kindOf } from '../base/errors.ts';
import { ClientCall } from './client-call.ts';

class FakeCall extends EventEmitter {
  readonly #deadline: Date | number;

  constructor(deadline: Date | number) {
    super();
    this.#deadline = deadline;
  }

  getDeadline(): Date | number {
    return this.#deadline;
  }
}

test('patience ends before the deadline, early enough to say so', async () => {
  const deadlineMs = Date.now() + 200;
  using call = new ClientCall('RunPodSandbox', new FakeCall(new Date(deadlineMs)));
  await once(call.patience, 'abort');
  assert.ok(Date.now() < deadlineMs, 'too late');
  assert.equal(kindOf(call.patience.reason), 'deadline');
  assert.ok(!call.signal.aborted);
});

test('patience ends at once when the deadline is that near', async () => {
  using call = new ClientCall('RunPodSandbox', new FakeCall(Date.now() + 5));
  await once(call.patience, 'abort');
});

test('patience ends with the client, also without a deadline', () => {
  for (const deadline of [Number.POSITIVE_INFINITY, Date.now() + 60_000, Date.now() + 1e12]) {
    const grpc = new FakeCall(deadline);
    using call = new ClientCall('RunPodSandbox', grpc);
    const { patience } = call;
    assert.ok(!patience.aborted);
    grpc.emit('cancelled');
    assert.ok(call.signal.aborted && patience.aborted);
    assert.equal(kindOf(patience.reason), 'cancelled');
  }
});

test('a call that was answered ends without an abort', () => {
  const grpc = new FakeCall(Date.now() + 60_000);
  const call = new ClientCall('RunPodSandbox', grpc);
  const { patience } = call;
  call[Symbol.dispose]();
  grpc.emit('cancelled');
  assert.ok(!call.signal.aborted && !patience.aborted);
});
