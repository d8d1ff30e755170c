import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';
import { constants, createDeflate, createInflate, type Deflate, deflateRawSync, type Inflate } from 'node:zlib';

import fc from 'fast-check';

import { BerthError } from '../../../base/errors.ts';
import { HEADER_DICTIONARY } from './dictionary.ts';
import { HeaderDeflater, HeaderInflater, serializeHeaders } from './header-block.ts';

async function flush(stream: Deflate | Inflate, input: Buffer): Promise<Buffer> {
  stream.write(input);
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.flush(constants.Z_SYNC_FLUSH, resolve);
  await promise;
  return (stream.read() as Buffer | null) ?? Buffer.alloc(0);
}

const headerMap = fc
  .array(fc.tuple(fc.stringMatching(/^[a-z0-9-]{1,12}$/), fc.string({ maxLength: 40 })), { maxLength: 8 })
  .map((entries) => new Map(entries.map(([name, value]) => [name, value.toWellFormed()])));

suite('SPDY header blocks', () => {
  test('the dictionary is that of the draft', () => {
    assert.equal(HEADER_DICTIONARY.length, 1423);
  });

  test('a chain of blocks that zlib compressed is read, far beyond the 32 KiB window', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(headerMap, { minLength: 100, maxLength: 300 }), async (blocks) => {
        const deflate = createDeflate({ dictionary: HEADER_DICTIONARY, level: constants.Z_BEST_COMPRESSION });
        const inflater = new HeaderInflater();
        for (const headers of blocks) {
          const block = await flush(deflate, serializeHeaders(headers));
          assert.deepEqual(inflater.inflate(block), headers);
        }
      }),
      { numRuns: 20 },
    );
  });

  test('a chain of blocks that we write is read by zlib', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(headerMap, { minLength: 1, maxLength: 20 }), async (blocks) => {
        const deflater = new HeaderDeflater();
        const inflate = createInflate({ dictionary: HEADER_DICTIONARY });
        for (const headers of blocks) {
          const plain = await flush(inflate, deflater.deflate(headers));
          assert.deepEqual(plain, serializeHeaders(headers));
        }
      }),
      { numRuns: 50 },
    );
  });

  test('a stream without a preset dictionary is read as well', async () => {
    const headers = new Map([['streamtype', 'error']]);
    const deflate = createDeflate();
    assert.deepEqual(new HeaderInflater().inflate(await flush(deflate, serializeHeaders(headers))), headers);
  });

  test('a block that would become too large is refused before it has', () => {
    const bomb = Buffer.concat([new HeaderDeflater().deflate(new Map()), deflateRawSync(Buffer.alloc(100 << 20))]);
    assert.throws(() => new HeaderInflater().inflate(bomb), { kind: 'invalid', message: /cannot be inflated/ });
  });

  test('any bytes give headers or an error for the client', () => {
    const start = new HeaderDeflater().deflate(new Map());
    const tail = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
    const plain = tail.map((bytes) => Buffer.concat([start.subarray(0, 6), deflateRawSync(bytes)]));
    fc.assert(
      fc.property(fc.array(fc.oneof(tail, plain), { minLength: 1, maxLength: 4 }), (blocks) => {
        const inflater = new HeaderInflater();
        try {
          for (const block of blocks) inflater.inflate(block);
        } catch (err) {
          assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
        }
      }),
      { numRuns: 1000 },
    );
  });

  for (const [name, headers] of [
    ['capital letters', Buffer.from('0000000100000001410000000162', 'hex')],
    ['a name that is there twice', Buffer.from('000000020000000161000000016200000001610000000162', 'hex')],
    ['more headers than it holds', Buffer.from('00000003', 'hex')],
    ['far too many headers', Buffer.from('ffffffff', 'hex')],
  ] as const) {
    test(`a block with ${name} is a protocol error`, async () => {
      const deflate = createDeflate({ dictionary: HEADER_DICTIONARY });
      const block = await flush(deflate, headers);
      assert.throws(() => new HeaderInflater().inflate(block), { kind: 'invalid' });
    });
  }
});
