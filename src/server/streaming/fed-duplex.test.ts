import assert from 'node:assert/strict';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';

import fc from 'fast-check';

import { FedDuplex } from './fed-duplex.ts';

/** Is fed by a source that stops when it is full and goes on when more is wanted. */
class Fed extends FedDuplex {
  readonly #pieces: Buffer[];
  #isFull = false;

  constructor(bufferBytes: number, pieces: readonly Buffer[]) {
    super(bufferBytes);
    this.#pieces = [...pieces];
  }

  /** How many pieces were not taken in. */
  get left(): number {
    return this.#pieces.length;
  }

  get isFull(): boolean {
    return this.#isFull;
  }

  begin(): void {
    while (!this.#isFull) {
      const piece = this.#pieces.shift();
      if (piece) this.#isFull = !this.feed(piece);
      else {
        this.push(null);
        return;
      }
    }
  }

  override _write(_chunk: Buffer, _encoding: BufferEncoding, _done: () => void): void {}

  protected override wanted(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    queueMicrotask(() => this.begin());
  }
}

test('is full of bytes, and of pieces', () => {
  const large = new Fed(
    64 * 1024,
    Array.from({ length: 10 }, () => Buffer.alloc(16 * 1024)),
  );
  large.begin();
  assert.deepEqual([large.isFull, large.left], [true, 6]);
  const small = new Fed(
    64 * 1024,
    Array.from({ length: 1000 }, () => Buffer.from('x')),
  );
  small.begin();
  assert.deepEqual([small.isFull, small.left], [true, 1000 - 256]);
});

test('stays full until somebody reads', async () => {
  const small = new Fed(
    64 * 1024,
    Array.from({ length: 1000 }, () => Buffer.from('x')),
  );
  small.begin();
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([small.isFull, small.left], [true, 1000 - 256]);
  assert.equal((await buffer(small)).length, 1000);
});

test('whoever reads however gets all that came, in order', async () => {
  const pieces = fc.array(
    fc.oneof(fc.constant(1), fc.nat({ max: 5000 })).map((length) => Buffer.alloc(Math.max(length, 1), 'abcdefg')),
    { maxLength: 200 },
  );
  await fc.assert(
    fc.asyncProperty(pieces, fc.constantFrom('flowing', 'readable', 'paused now and then'), async (sent, how) => {
      const stream = new Fed(4096, sent);
      stream.begin();
      const seen: Buffer[] = [];
      if (how === 'readable') {
        stream.on('readable', () => {
          for (let chunk = stream.read(); chunk !== null; chunk = stream.read()) seen.push(chunk);
        });
      } else {
        stream.on('data', (chunk: Buffer) => {
          seen.push(chunk);
          if (how === 'flowing') return;
          stream.pause();
          setImmediate(() => stream.resume());
        });
      }
      await once(stream, 'end');
      assert.deepEqual(Buffer.concat(seen), Buffer.concat(sent));
    }),
    { numRuns: 50 },
  );
});

test('what goes out waits one piece at a time', () => {
  const stream = new Fed(4096, []);
  assert.equal(stream.write('x'), false);
});
