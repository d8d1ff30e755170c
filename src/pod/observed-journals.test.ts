import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { runSteps } from '../base/steps.ts';
import { ObservedJournals } from './observed-journals.ts';

test('every step is kept, counted by its outcome, and logged; so is its undo', async () => {
  const seen: string[] = [];
  const note = (text: string): void => void seen.push(text);
  const kept = {
    open: (pipeline: string, subject: string) => ({
      begin: (step: string) => note(`begin ${pipeline} ${subject} ${step}`),
      end: (step: string, outcome: string) => note(`end ${step} ${outcome}`),
      undone: (step: string) => note(`undone ${step}`),
    }),
    finish: (pipeline: string, subject: string) => note(`finish ${pipeline} ${subject}`),
    forget: (subject: string) => note(`forget ${subject}`),
  };
  const meter = {
    ...silentMeter,
    step: (pipeline: string, step: string, outcome: string) => note(`count ${pipeline} ${step} ${outcome}`),
  };
  const log = {
    ...silentLogger,
    info: (fields: object, message: string) => note(`${message} ${'step' in fields ? String(fields.step) : ''}`),
  };
  const journals = new ObservedJournals(kept, { meter, log });
  const steps = [
    { name: 'one', run() {}, undo() {} },
    { name: 'two', run: () => Promise.reject(new Error('x')) },
  ];
  await assert.rejects(runSteps(steps, null, new AbortController().signal, journals.open('Run', 'p')));
  journals.forget('p');
  assert.deepEqual(seen, [
    'begin Run p one',
    'end one ok',
    'count Run one ok',
    'begin Run p two',
    'end two internal',
    'count Run two internal',
    'undone two',
    'step undone two',
    'undone one',
    'step undone one',
    'forget p',
  ]);
});

test('a store that takes no notes stops no rollback, but the beginning of a step', async () => {
  const refuse = (): never => {
    throw new BerthError('unavailable', 'database is locked');
  };
  let canBegin = true;
  const kept = {
    open: () => ({ begin: () => (canBegin ? undefined : refuse()), end: refuse, undone: refuse }),
    finish: refuse,
    forget: refuse,
  };
  const journals = new ObservedJournals(kept, { meter: silentMeter, log: silentLogger });
  const undone: string[] = [];
  const undo = (name: string) => () => void undone.push(name);
  const steps = [
    { name: 'one', run() {}, undo: undo('one') },
    { name: 'two', run: () => Promise.reject(new BerthError('invalid', 'x')), undo: undo('two') },
  ];
  const { signal } = new AbortController();
  await assert.rejects(runSteps(steps, null, signal, journals.open('Run', 'p')), { kind: 'invalid' });
  assert.deepEqual(undone, ['two', 'one']);
  journals.finish('Run', 'p');
  journals.forget('p');
  canBegin = false;
  await assert.rejects(runSteps(steps, null, signal, journals.open('Run', 'p')), { kind: 'unavailable' });
});

test('what the store could not forget is forgotten with the next one that goes', () => {
  let isFull = true;
  const forgotten: string[] = [];
  const kept = {
    open: () => ({ begin() {}, end() {}, undone() {} }),
    finish() {},
    forget(subject: string) {
      if (isFull) throw new BerthError('exhausted', 'disk full');
      forgotten.push(subject);
    },
  };
  const journals = new ObservedJournals(kept, { meter: silentMeter, log: silentLogger });
  journals.forget('a');
  isFull = false;
  journals.forget('b');
  journals.forget('c');
  assert.deepEqual(forgotten, ['a', 'b', 'c']);
});
