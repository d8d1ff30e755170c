import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseSignal, signalNumber } from './stop-signal.ts';

for (const [text, name, number] of [
  ['SIGTERM', 'SIGTERM', 15],
  ['term', 'SIGTERM', 15],
  ['15', 'SIGTERM', 15],
  ['SIGRTMIN', 'SIGRTMIN', 34],
  ['34', 'SIGRTMIN', 34],
  ['SIGRTMIN+3', 'SIGRTMIN+3', 37],
  ['37', 'SIGRTMIN+3', 37],
  ['RTMAX-1', 'SIGRTMAX-1', 63],
  ['64', 'SIGRTMAX', 64],
] as const) {
  test(`${text} is ${name}, number ${number}`, () => {
    assert.equal(parseSignal(text), name);
    assert.equal(signalNumber(name), number);
  });
}

test('what is no signal has no name', () => {
  for (const text of ['', 'SIGNOTHING', '0', '65', '99', 'SIGRTMIN+31', 'SIGRTMAX+1', 'SIGRTMIN-1', 'constructor']) {
    assert.equal(parseSignal(text), undefined, text);
  }
});
