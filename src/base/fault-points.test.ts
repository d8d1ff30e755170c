import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { type Fault, FaultPoints, openFaultPoints } from './fault-points.ts';
import { runSteps, undoSteps } from './steps.ts';

let folder: string;
let faults: FaultPoints;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-fault-points-'));
  faults = new FaultPoints(folder);
});
afterEach(() => rmSync(folder, { recursive: true }));

const NONE: Fault = {
  place: 'p',
  phase: 'before',
  action: 'error',
  skip: 0,
  error: 'unavailable',
  delayMs: 0,
  script: '',
};
const arm = (fault: Partial<Fault>): void =>
  writeFileSync(join(folder, '1.armed'), JSON.stringify({ ...NONE, ...fault }));
const fired = join('.', '1.fired');

test('nothing is disturbed where the environment names no folder, and a folder that is missing is told', () => {
  assert.equal(openFaultPoints({}), undefined);
  assert.throws(() => openFaultPoints({ BERTH_FAULTS: join(folder, 'missing') }), { kind: 'precondition' });
  assert.equal(openFaultPoints({ BERTH_FAULTS: folder })?.folder, folder);
});

test('an error strikes once, at its place, after so many passes, before the work or after it', async () => {
  let worked = 0;
  const work = (): number => ++worked;
  arm({ skip: 1 });
  assert.equal(await faults.around('p', work), 1);
  assert.equal(await faults.around('other', work), 2);
  await assert.rejects(faults.around('p', work), { kind: 'unavailable', message: 'fault at p' });
  assert.equal(await faults.around('p', work), 3);
  arm({ phase: 'after' });
  await assert.rejects(faults.around('p', work));
  assert.equal(worked, 4);
  assert.equal(readFileSync(join(folder, 'passed'), 'utf8'), 'p\nother\np\np\np\n');
});

test('a call gives what its error looks like', () => {
  arm({ error: 'EIO' });
  assert.equal(
    faults.aroundCall(
      'p',
      () => 'worked',
      (error) => error,
    ),
    'EIO',
  );
  assert.equal(
    faults.aroundCall(
      'p',
      () => 'worked',
      (error) => error,
    ),
    'worked',
  );
});

test('a hang lasts until its file is gone, or until the signal aborts', async () => {
  arm({ action: 'hang', phase: 'after' });
  let ended = false;
  const hanging = faults
    .around('p', () => 1)
    .finally(() => {
      ended = true;
    });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([existsSync(join(folder, fired)), ended], [true, false]);
  rmSync(join(folder, fired));
  assert.equal(await hanging, 1);
  arm({ action: 'hang' });
  const reason = new Error('enough');
  await assert.rejects(
    faults.around('p', () => 1, AbortSignal.abort(reason)),
    reason,
  );
});

test('another program stands in for the one that was to run, once', () => {
  arm({ phase: 'instead', action: 'run', script: 'until [ ! -e FAULT_FILE ]; do :; done; exec "$@"' });
  assert.equal(faults.standIn('p'), `until [ ! -e ${join(folder, fired)} ]; do :; done; exec "$@"`);
  assert.equal(faults.standIn('p'), undefined);
});

test('steps and their undos pass through what the journal does around them', async () => {
  const passed: string[] = [];
  const steps = [
    { name: 'a', run() {}, undo() {} },
    { name: 'b', run() {} },
  ];
  const journal = {
    begin() {},
    end() {},
    undone() {},
    async around(name: string, work: () => Promise<void> | void) {
      passed.push(name);
      await work();
    },
  };
  await runSteps(steps, null, new AbortController().signal, journal);
  await undoSteps(steps, null, journal);
  assert.deepEqual(passed, ['a', 'b', 'undo a']);
});
