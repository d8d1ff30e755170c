import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';

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

test('a stream that breaks or is closed has ended too', async () => {
  const broken = new PassThrough();
  const output = new Output(broken, 10);
  broken.destroy(new Error('broken'));
  await output.ended;
  const open = new Output(new PassThrough(), 10);
  open.close();
  await open.ended;
});
