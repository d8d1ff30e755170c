import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';

import fc from 'fast-check';

import { isKind } from '../base/errors.ts';
import { openIsal } from '../sys/isal.ts';
import { type BlobInput, inflate } from './inflate.ts';

const engines = ['zlib', 'isal'] as const;

describe('inflate', () => {
  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-inflate-'));
  });
  after(() => rmSync(dir, { recursive: true }));

  const read = async (bytes: Buffer, more: Pick<BlobInput, 'compression' | 'gunzip'>): Promise<Buffer> => {
    const path = join(dir, 'blob');
    writeFileSync(path, bytes);
    const parts: Buffer[] = [];
    // A chunk holds until the next one.
    for await (const part of inflate({ path, ...more })) parts.push(Buffer.from(part));
    return Buffer.concat(parts);
  };

  it('can be stopped where there is nothing to give', async () => {
    const path = join(dir, 'nothing');
    const stopped = (): never => {
      throw new Error('nobody wants it');
    };
    const skippable = Buffer.from('502a4d1800000000', 'hex');
    const nothings = [
      { bytes: skippable, compression: 'zstd' },
      { bytes: gzipSync(''), compression: 'gzip' },
    ] as const;
    for (const { bytes, compression } of nothings) {
      writeFileSync(path, bytes);
      await assert.rejects(inflate({ path, compression }, stopped).next(), /nobody wants it/);
    }
  });

  for (const gunzip of engines) {
    describe(`gzip by ${gunzip}`, {
      skip: gunzip === 'isal' && !openIsal() ? 'libisal2 is not installed' : false,
    }, () => {
      const gzip = { compression: 'gzip', gunzip } as const;

      it('gives what was compressed, in one member or several', async () => {
        const texts = fc.array(fc.uint8Array({ maxLength: 2000 }), { minLength: 1, maxLength: 4 });
        await fc.assert(
          fc.asyncProperty(texts, fc.integer({ min: 0, max: 9 }), async (parts, level) => {
            const bytes = Buffer.concat(parts.map((part) => gzipSync(part, { level })));
            assert.deepEqual(await read(bytes, gzip), Buffer.concat(parts));
          }),
          { numRuns: 60 },
        );
      });

      it('gives what is longer than its buffers', async () => {
        const zeros = Buffer.alloc(5_000_000);
        assert.ok((await read(gzipSync(zeros), gzip)).equals(zeros));
        const mixed = Buffer.alloc(3_000_000);
        for (let at = 0, x = 1; at < mixed.length; at += 1) {
          x = (x * 1_103_515_245 + 12_345) & 0x7fffffff;
          mixed[at] = at % 3 === 0 ? x >> 16 : at;
        }
        assert.ok(
          (await read(Buffer.concat([gzipSync(mixed), gzipSync(zeros)]), gzip)).equals(Buffer.concat([mixed, zeros])),
        );
      });

      it('passes over zeros after the end', async () => {
        assert.equal(String(await read(Buffer.concat([gzipSync('a'), Buffer.alloc(1000)]), gzip)), 'a');
      });

      it('refuses what is empty, cut off, damaged, has a wrong checksum or garbage after it', async () => {
        const whole = gzipSync(Buffer.from('some text that is long enough to be cut in several places'));
        const wrongSum = Buffer.from(whole);
        wrongSum.writeUInt32LE(1, wrongSum.length - 8);
        const bad: Record<string, Buffer> = {
          empty: Buffer.alloc(0),
          text: Buffer.from('this is no gzip at all'),
          sum: wrongSum,
          garbage: Buffer.concat([whole, Buffer.from('garbage')]),
        };
        for (let length = 1; length < whole.length; length += 1) bad[`cut at ${length}`] = whole.subarray(0, length);
        for (const [name, bytes] of Object.entries(bad)) {
          await assert.rejects(read(bytes, gzip), (err) => isKind(err, 'invalid'), name);
        }
      });

      it('never gives other bytes than those of a damaged file', async () => {
        const whole = gzipSync(Buffer.from('abcabcabcabd'.repeat(50)));
        await fc.assert(
          fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
            const damaged = Buffer.from(whole);
            damaged[at] = (damaged[at] ?? 0) ^ change;
            const text = await read(damaged, gzip).catch((err: unknown) => {
              assert.ok(isKind(err, 'invalid'), String(err));
            });
            if (text) assert.equal(text.toString(), 'abcabcabcabd'.repeat(50));
          }),
          { numRuns: 100 },
        );
      });
    });
  }

  it('reads zstd frames with what may be skipped between them, as zstd:chunked has it', async () => {
    const skippable = Buffer.from('5e2a4d180400000001020304', 'hex');
    const bytes = Buffer.concat([zstdCompressSync('a'), skippable, zstdCompressSync('b'), skippable]);
    assert.equal(String(await read(bytes, { compression: 'zstd' })), 'ab');
  });
});
