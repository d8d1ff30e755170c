/** Layers are unpacked while they are downloaded. Needs root, and a disk that carries overlays. */

import assert from 'node:assert/strict';
import { appendFileSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';

import { BerthError, describe as chain, isKind } from '../../src/base/errors.ts';
import { BlobArrival } from '../../src/image/blob-arrival.ts';
import { LayerLab, sha256 } from '../fakes/layer-lab.ts';
import { tarBytes } from '../fakes/tar-bytes.ts';

const never = new AbortController().signal;

for (const place of ['threads', 'process'] as const)
  describe(`unpacking while downloading, by ${place}`, {
    skip: process.getuid?.() === 0 ? false : 'needs root',
  }, () => {
    let lab: LayerLab;
    beforeEach(async () => {
      lab = await LayerLab.open({ place });
    });
    afterEach(() => lab.close());

    const tar = tarBytes(
      Array.from({ length: 50 }, (_, index) => ({ name: `f${index}`, data: Buffer.alloc(30_000, String(index)) })),
    );
    const blob = gzipSync(tar, { level: 0 });
    const layers = (): string[] => readdirSync(join(lab.root, 'image/layers'));
    const begin = (signal = never) => {
      const path = lab.blob(blob.subarray(0, 10));
      const arrival = new BlobArrival();
      arrival.reached(10);
      const source = { path, compression: 'gzip', arrival: arrival.shared } as const;
      return { path, arrival, unpacked: lab.layers.unpack(source, sha256(tar), signal) };
    };

    it('goes on as bytes come, and is not there before the blob is verified', async () => {
      const { path, arrival, unpacked } = begin();
      for (let at = 10; at < blob.length; at += 100_000) {
        appendFileSync(path, blob.subarray(at, at + 100_000));
        arrival.reached(Math.min(blob.length, at + 100_000));
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal(lab.layers.has(sha256(tar)), false);
      arrival.end(true);
      await unpacked;
      const file = join(lab.layers.path(sha256(tar)), 'f49');
      assert.equal(readFileSync(file, 'utf8'), Buffer.alloc(30_000, '49').toString());
    });

    it('is refused as not found when it begins too late', async () => {
      const source = { path: join(lab.base, 'gone'), compression: 'gzip', arrival: new BlobArrival().shared } as const;
      await assert.rejects(lab.layers.unpack(source, sha256(tar), never), (err) => isKind(err, 'notFound'));
    });

    it('leaves nothing when the download fails, or nobody wants it any more', async () => {
      const failed = begin();
      failed.arrival.end(false);
      await assert.rejects(failed.unpacked, (err) => isKind(err, 'cancelled'));
      assert.deepEqual(layers(), []);
      const left = new AbortController();
      const abandoned = begin(left.signal);
      left.abort(new BerthError('cancelled', 'the client left'));
      await assert.rejects(abandoned.unpacked, /the client left/);
      assert.deepEqual(layers(), []);
    });

    it('does not hold up, nor fail, who brings the same layer in another file', { timeout: 900_000 }, async () => {
      const slow = begin();
      const failing = begin();
      const bring = () => lab.layers.unpack({ path: lab.blob(blob), compression: 'gzip' }, sha256(tar), never);
      const both = Promise.all([bring(), bring()]);
      failing.arrival.end(false);
      await assert.rejects(failing.unpacked, (err) => isKind(err, 'cancelled'));
      const [one, two] = await both;
      assert.equal(one, two);
      appendFileSync(slow.path, blob.subarray(10));
      slow.arrival.reached(blob.length);
      slow.arrival.end(true);
      assert.equal(await slow.unpacked, one);
      assert.deepEqual(layers(), [sha256(tar).slice('sha256:'.length)]);
      assert.equal(readFileSync(join(lab.layers.path(sha256(tar)), 'f0'), 'utf8').length, 30_000);
    });

    it('shares nothing with who says another compression', async () => {
      const path = lab.blob(blob);
      const as = (compression: 'none' | 'gzip') => lab.layers.unpack({ path, compression }, sha256(tar), never);
      const [wrong, right] = await Promise.allSettled([as('none'), as('gzip')]);
      assert.deepEqual([wrong.status, right.status], ['rejected', 'fulfilled']);
    });

    it('follows its own download, where another one of that name came to nothing', async () => {
      const first = begin();
      const second = new BlobArrival();
      const source = { path: first.path, compression: 'gzip', arrival: second.shared } as const;
      first.arrival.end(false);
      // The first has not heard of it yet.
      appendFileSync(first.path, blob.subarray(10));
      second.reached(blob.length);
      second.end(true);
      const unpacked = lab.layers.unpack(source, sha256(tar), never).catch((err: unknown) => err);
      await assert.rejects(first.unpacked, (err) => isKind(err, 'cancelled'));
      const outcome = await unpacked;
      // No thread may have been free for it.
      if (outcome instanceof Error) assert.match(chain(outcome), /no thread is free/);
      else assert.ok(lab.layers.has(sha256(tar)));
    });

    it('leaves a thread to others', async () => {
      const first = begin();
      const source = { path: lab.blob(blob), compression: 'gzip', arrival: new BlobArrival().shared } as const;
      const other = tarBytes([{ name: 'other', data: Buffer.from('x') }]);
      await assert.rejects(lab.layers.unpack(source, sha256(other), never), (err) => {
        assert.match(chain(err), /no thread is free/);
        return isKind(err, 'cancelled');
      });
      await lab.unpack(other);
      first.arrival.end(false);
      await assert.rejects(first.unpacked);
    });
  });
