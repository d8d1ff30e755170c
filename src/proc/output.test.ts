import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough, Readable } from 'node:stream';
import { test } from 'node:test';

import fc from 'fast-check';

import { Output } from './output.ts';

test('output up to the limit is kept whole', async () => {
  const stream = new PassThrough();
  const output = new Output(stream, 6);
  stream.write('abc');
  stream.end('def');
  await output.ended;
  assert.deepEqual([output.bytes().toString(), output.truncated], ['abcdef', false]);
});

test('the rest is read and dropped', async () => {
  const stream = new PassThrough();
  const output = new Output(stream, 4);
  for (const text of ['abc', 'def', 'ghi']) stream.write(text);
  stream.end();
  await output.ended;
  assert.deepEqual([output.bytes().toString(), output.truncated], ['abcd', true]);
});

test('who wants to know is told once that there is more than the limit', async () => {
  let told = 0;
  for (const texts of [['abcd'], ['abc', 'def', 'ghi']]) {
    const stream = new PassThrough();
    const output = new Output(stream, 4, () => {
      told += 1;
    });
    for (const text of texts) stream.write(text);
    stream.end();
    await output.ended;
    assert.equal(told, texts.length === 1 ? 0 : 1);
  }
});

test('what is kept holds none of the buffers that it came in', async () => {
  const stream = new Readable({ read() {} });
  const output = new Output(stream, 100);
  const piece = Buffer.from('kept');
  stream.push(piece);
  await once(stream, 'data');
  piece.fill('x');
  assert.equal(output.bytes().toString(), 'kept');
});

test('pieces of any size are put together up to the limit', async () => {
  const sizes = fc.array(fc.nat({ max: 9000 }), { maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(sizes, fc.nat({ max: 60_000 }), async (lengths, limitBytes) => {
      const stream = new PassThrough();
      const output = new Output(stream, limitBytes);
      const pieces = lengths.map((length, index) => Buffer.alloc(length, index + 1));
      for (const piece of pieces) stream.write(piece);
      stream.end();
      await output.ended;
      const all = Buffer.concat(pieces);
      assert.deepEqual(output.bytes(), all.subarray(0, limitBytes));
      assert.equal(output.truncated, all.length > limitBytes);
    }),
  );
});

test('a stream that breaks or is closed has ended too', async () => {
  const broken = new PassThrough();
  const output = new Output(broken, 10);
  broken.destroy(new Error('broken'));
  await output.ended;
  const open = new Output(new PassThrough(), 10);
  open.close();
  await open.ended;
});
