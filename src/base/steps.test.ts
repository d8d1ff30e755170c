import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { BerthError, describe, findCause, kindOf } from './errors.ts';
import { type Journal, RollbackError, runSteps, type Step } from './steps.ts';

/** A pipeline of three steps that writes down what happens to it. */
function pipeline(events: string[], failing: { run?: string; undo?: string } = {}): Step<null>[] {
  return ['one', 'two', 'three'].map((name) => ({
    name,
    run() {
      events.push(`run ${name}`);
      if (failing.run === name) throw new BerthError('unavailable', `${name} broke`);
    },
    undo() {
      events.push(`undo ${name}`);
      if (failing.undo === name) throw new Error(`${name} stuck`);
    },
  }));
}

function recordingJournal(events: string[]): Journal {
  return {
    begin: (step) => void events.push(`begin ${step}`),
    end: (step, outcome) => void events.push(`end ${step} ${outcome}`),
    undone: (step) => void events.push(`undone ${step}`),
  };
}

const silentJournal: Journal = { begin() {}, end() {}, undone() {} };
const never = new AbortController().signal;

suite('runSteps', () => {
  test('runs every step in order and journals before and after each', async () => {
    const events: string[] = [];
    await runSteps(pipeline(events), null, never, recordingJournal(events));
    assert.deepEqual(events, [
      'begin one',
      'run one',
      'end one ok',
      'begin two',
      'run two',
      'end two ok',
      'begin three',
      'run three',
      'end three ok',
    ]);
  });

  for (const [index, failed] of ['one', 'two', 'three'].entries()) {
    test(`undoes what had begun, newest first, when step ${failed} fails`, async () => {
      const events: string[] = [];
      const failure = runSteps(pipeline(events, { run: failed }), null, never, silentJournal);
      await assert.rejects(failure, { kind: 'unavailable', message: failed });
      const undone = events.filter((event) => event.startsWith('undo'));
      assert.deepEqual(undone, ['undo one', 'undo two', 'undo three'].slice(0, index + 1).reverse());
    });
  }

  test('runs a step beside the one before it, and the next when both have ended', async () => {
    const events: string[] = [];
    const slow = Promise.withResolvers<void>();
    const steps: Step<null>[] = [
      { name: 'one', run: () => slow.promise },
      {
        name: 'two',
        isBeside: true,
        async run() {
          slow.resolve();
        },
      },
      { name: 'three', run() {} },
    ];
    await runSteps(steps, null, never, recordingJournal(events));
    assert.deepEqual(events.slice(0, 2), ['begin one', 'begin two']);
    assert.deepEqual(events.slice(2, 4).toSorted(), ['end one ok', 'end two ok']);
    assert.deepEqual(events.slice(4), ['begin three', 'end three ok']);
  });

  for (const failing of ['one', 'two']) {
    test(`aborts what runs beside ${failing} when that fails, waits for its end, and undoes both`, async () => {
      const events: string[] = [];
      const steps = ['one', 'two'].map(
        (name): Step<null> => ({
          name,
          isBeside: true,
          async run(_ctx, signal) {
            if (name === failing) throw new BerthError('unavailable', `${name} broke`);
            await new Promise<void>((resolve) => signal.addEventListener('abort', () => setImmediate(resolve)));
            events.push(`${name} ended`);
            signal.throwIfAborted();
          },
          undo: () => void events.push(`undo ${name}`),
        }),
      );
      const failure = runSteps(steps, null, never, silentJournal);
      await assert.rejects(failure, { kind: 'unavailable', message: failing });
      assert.deepEqual(events, [`${failing === 'one' ? 'two' : 'one'} ended`, 'undo two', 'undo one']);
    });
  }

  test('tells the failure of the first step, also when what came of it in the next one was there before', async () => {
    const next = Promise.withResolvers<void>();
    const steps: Step<null>[] = [
      {
        name: 'one',
        async run() {
          await next.promise;
          throw new BerthError('exhausted', 'no memory');
        },
      },
      {
        name: 'two',
        isBeside: true,
        async run() {
          next.resolve();
          throw new BerthError('precondition', 'nothing of one is there');
        },
      },
    ];
    const failure = runSteps(steps, null, never, silentJournal);
    await assert.rejects(failure, (err) => {
      assert.equal(describe(err), 'one: no memory');
      return kindOf(err) === 'exhausted';
    });
  });

  test('stops the rollback at the first undo that fails, and says both', async () => {
    const events: string[] = [];
    const failure = runSteps(pipeline(events, { run: 'three', undo: 'two' }), null, never, silentJournal);
    await assert.rejects(failure, (err) => {
      assert.equal(kindOf(err), 'unavailable', 'what the client hears is why the step failed');
      assert.match(findCause(err, RollbackError)?.message ?? '', /three broke; undo two/);
      return true;
    });
    assert.deepEqual(events.slice(-2), ['undo three', 'undo two']);
  });

  test('an abort between two steps rolls back what had begun', async () => {
    const events: string[] = [];
    const controller = new AbortController();
    const steps = pipeline(events);
    steps.splice(1, 0, { name: 'abort', run: () => controller.abort(new BerthError('deadline', 'too late')) });
    await assert.rejects(runSteps(steps, null, controller.signal, silentJournal), { kind: 'deadline' });
    assert.deepEqual(events, ['run one', 'undo one']);
  });
});
