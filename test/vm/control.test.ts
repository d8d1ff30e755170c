import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { AnswerReader, bootIn, requestBytes } from './control.ts';

const ID = '0f8fad5b-d9cb-469f-a165-70867728950e';
const BOOT = '7c9e6679-7425-40de-944b-e07fc1f90ae7';

test('a request says how long the command and its input are, in bytes, and its time in whole seconds', () => {
  const bytes = requestBytes(ID, 'echo ü', { timeoutMs: 1500, input: Buffer.from('in') });
  assert.equal(bytes.toString(), `${ID} 2 7 2\necho üin`);
  assert.equal(requestBytes(ID, 'true', { timeoutMs: 1000 }).toString(), `${ID} 1 4 0\ntrue`);
});

test('an answer comes out whole, wherever it was cut', () => {
  const property = fc.property(
    fc.uint8Array({ maxLength: 200 }),
    fc.integer({ min: 0, max: 255 }),
    fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
    (output, status, cuts) => {
      const wire = Buffer.concat([output, Buffer.from(`\n${ID} ${status}\n`)]);
      const seen: Buffer[] = [];
      const reader = new AnswerReader(ID, (bytes) => seen.push(Buffer.from(bytes)));
      let answered: number | undefined;
      for (let at = 0, turn = 0; at < wire.length; turn++) {
        assert.equal(answered, undefined, 'the status came before its end');
        const length = cuts[turn % cuts.length] ?? 1;
        answered = reader.push(wire.subarray(at, at + length));
        at += length;
      }
      assert.equal(answered, status);
      assert.deepEqual(Buffer.concat(seen), Buffer.from(output));
    },
  );
  fc.assert(property);
});

test('what is written is passed on before the command ends', () => {
  const seen: string[] = [];
  const reader = new AnswerReader(ID, (bytes) => seen.push(bytes.toString()));
  assert.equal(reader.push(Buffer.from('x'.repeat(100))), undefined);
  assert.ok(seen.join('').length > 50);
});

test('the last boot counts, and half a line is none', () => {
  assert.equal(bootIn(`ready ${ID}\nnoise\nready ${BOOT}\n`), BOOT);
  assert.equal(bootIn(`noise\nready ${BOOT.slice(0, 20)}`), undefined);
  assert.equal(bootIn(''), undefined);
});
