import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { type FakeImage, FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import { BerthError, isKind } from '../base/errors.ts';
import { type BlobBody, BlobIngest, type BlobObserver } from './blob-download.ts';
import type { Digest } from './digest.ts';
import { type Access, RegistryClient } from './registry-client.ts';
import { RegistryError } from './registry-error.ts';

const never = new AbortController().signal;

describe('a download that is interrupted', () => {
  let registry: FakeRegistry;
  let client: RegistryClient;
  let dir: string;
  let ingest: BlobIngest;
  let image: FakeImage;
  let heard: { reached: number; transferred: number; opened: string[] };

  beforeEach(async () => {
    registry = await FakeRegistry.start();
    client = new RegistryClient({
      monotonicMs: () => performance.now(),
      retry: { attempts: 2, firstWaitMs: 1, maxWaitMs: 10 },
    });
    dir = await mkdtemp(join(tmpdir(), 'berth-resume-'));
    ingest = new BlobIngest(dir);
    await ingest.start();
    image = fakeImage([randomBytes(4_000_000).toString('base64')]);
    registry.add('app', image, 'v1');
    heard = { reached: 0, transferred: 0, opened: [] };
  });
  afterEach(async () => {
    await ingest.close();
    await client.close();
    await registry.close();
    await rm(dir, { recursive: true });
  });

  const observer: BlobObserver = {
    reached: (bytes) => {
      heard.reached = bytes;
      if (bytes >= awaited.bytes) awaited.resolve();
    },
    transferred: (more) => {
      heard.transferred += more;
    },
    opened: (file) => void heard.opened.push(file),
  };
  let awaited = { bytes: 0, resolve: (): void => {} };
  const reached = (bytes: number): Promise<void> =>
    new Promise((resolve) => {
      awaited = { bytes, resolve };
      if (heard.reached >= bytes) resolve();
    });
  const layer = (): { digest: Digest; size: number; mediaType: string } => {
    const [first] = image.layers;
    assert.ok(first);
    return { ...first, digest: first.digest as Digest };
  };
  const fetch = async (signal = never): Promise<void> => {
    const endpoint = { registry: registry.host, host: registry.host, repository: 'app', insecure: true, mirror: false };
    const access: Access = { endpoint, credential: undefined };
    const claim = ingest.claim(layer().digest);
    try {
      const open = (shared: AbortSignal) => (consume: (body: BlobBody) => Promise<void>, have: () => number) =>
        client.blob(access, layer().digest, shared, consume, have);
      await ingest.fetch(layer(), { registry: registry.host, open }, observer, signal);
    } finally {
      await claim.release(false);
    }
  };
  const ranges = (): (string | undefined)[] =>
    registry.seen.filter(({ url }) => url.includes('/blobs/')).map(({ range }) => range);
  /** Breaks the connection after so many bytes, so often. */
  const breakAfter = (bytes: number, times: number): void => {
    let left = times;
    registry.misbehave = (req, res) => {
      if (left === 0 || !req.url?.includes('/blobs/')) return false;
      left -= 1;
      const from = registry.knowsRanges ? Number(/=(\d+)-/.exec(req.headers.range ?? '')?.[1] ?? 0) : 0;
      const all = image.layers[0]?.bytes ?? Buffer.alloc(0);
      if (from > 0) res.writeHead(206, { 'content-range': `bytes ${from}-${all.length - 1}/${all.length}` });
      else res.writeHead(200, { 'content-length': all.length });
      res.write(all.subarray(from, from + bytes), () => res.destroy());
      return true;
    };
  };
  const whole = async (): Promise<void> => {
    const file = join(dir, layer().digest.replace(':', '-'));
    assert.ok((await readFile(file)).equals(image.layers[0]?.bytes ?? Buffer.alloc(0)));
    assert.deepEqual(await readdir(dir), [layer().digest.replace(':', '-')]);
    assert.equal(heard.reached, layer().size);
  };

  it('goes on where it ended, as often as it makes progress', async () => {
    breakAfter(1_100_000, 3);
    await fetch();
    await whole();
    assert.equal(heard.transferred, layer().size);
    assert.equal(ranges().length, 4);
    assert.match(String(ranges()[3]), /^bytes=3\d{6}-$/);
  });

  for (const status of [400, 403, 416]) {
    it(`begins anew where a range is refused with ${status}`, async () => {
      breakAfter(1_100_000, 1);
      const breaks = registry.misbehave;
      registry.misbehave = (req, res) => {
        if (req.headers.range === undefined) return breaks?.(req, res) ?? false;
        res.writeHead(status).end();
        return true;
      };
      await fetch();
      await whole();
      assert.deepEqual(
        ranges().map((range) => range !== undefined),
        [false, true, false],
      );
    });
  }

  it('asks for itself what the registry has refused to who came first', async () => {
    const [asked, refusal] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const refusing = async (): Promise<void> => {
      asked.resolve();
      await refusal.promise;
      throw new RegistryError('notFound', 'blob unknown', { status: 404 });
    };
    const claim = ingest.claim(layer().digest);
    const refused = () => ingest.fetch(layer(), { registry: registry.host, open: () => refusing }, observer, never);
    const first = refused();
    await asked.promise;
    const [second, third] = [refused(), fetch()];
    refusal.resolve();
    for (const one of [first, second]) await assert.rejects(one, (err) => isKind(err, 'notFound'));
    await third;
    await claim.release(false);
    await whole();
  });

  it('shares nothing with who says another size', async () => {
    const [asked, late] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow = async (consume: (body: BlobBody) => Promise<void>): Promise<void> => {
      asked.resolve();
      await late.promise;
      await consume({ from: 0, bytes: Readable.from([image.layers[0]?.bytes ?? Buffer.alloc(0)]) });
    };
    const claim = ingest.claim(layer().digest);
    const wrong = { ...layer(), size: 5 };
    const first = ingest.fetch(wrong, { registry: registry.host, open: () => slow }, observer, never);
    await asked.promise;
    await fetch();
    late.resolve();
    await assert.rejects(first, /is longer than the 5 bytes/);
    await claim.release(false);
  });

  it('gives up when it makes none', async () => {
    breakAfter(1000, 100);
    await assert.rejects(fetch(), (err) => isKind(err, 'unavailable'));
    assert.equal(ranges().length, 2);
  });

  it('begins anew where the registry knows no ranges', async () => {
    registry.knowsRanges = false;
    breakAfter(1_100_000, 1);
    await fetch();
    await whole();
    assert.ok(heard.transferred > layer().size);
  });

  it('goes on in the next life, whatever the last one was cut short by', async () => {
    breakAfter(1_100_000, 100);
    const left = new AbortController();
    const cut = fetch(left.signal);
    await reached(1_000_000);
    left.abort(new BerthError('cancelled', 'killed'));
    await assert.rejects(cut, /killed/);
    registry.misbehave = undefined;
    await writeFile(join(dir, 'scratch-of-a-load'), 'left');
    ingest = new BlobIngest(dir);
    await ingest.start();
    heard = { reached: 0, transferred: 0, opened: [] };
    await fetch();
    await whole();
    assert.ok(heard.transferred < layer().size, `${heard.transferred} of ${layer().size} bytes came again`);
  });

  it('waits for no other registry, and is not spoilt by what that sends', { timeout: 60_000 }, async () => {
    const claim = ingest.claim(layer().digest);
    const began = Promise.withResolvers<void>();
    const drips = Promise.withResolvers<void>();
    async function* wrongBytes(): AsyncGenerator<Uint8Array, void> {
      yield Buffer.alloc(1_200_000, 1);
      began.resolve();
      await drips.promise;
    }
    const open = () => async (consume: (body: BlobBody) => Promise<void>) =>
      await consume({ from: 0, bytes: wrongBytes() });
    const quiet: BlobObserver = { reached: () => {}, transferred: () => {}, opened: () => {} };
    const slow = ingest.fetch(layer(), { registry: 'slow.example', open }, quiet, never);
    await began.promise;
    await fetch().finally(drips.resolve);
    await assert.rejects(slow, /ends after 1200000 of/);
    const bytes = await readFile(join(dir, layer().digest.replace(':', '-')));
    assert.ok(bytes.equals(image.layers[0]?.bytes ?? Buffer.alloc(0)));
    assert.equal((await readdir(dir)).length, 2);
    await claim.release(true);
    assert.deepEqual(await readdir(dir), []);
  });

  it('throws away what an earlier life left wrong', async () => {
    const file = join(dir, `${layer().digest.replace(':', '-')}.partial`);
    for (const size of [1000, layer().size, layer().size + 1]) {
      await writeFile(file, Buffer.alloc(size, 1));
      await fetch();
      await whole();
      await rm(join(dir, layer().digest.replace(':', '-')));
    }
  });

  it('verifies a whole one again', async () => {
    const file = join(dir, layer().digest.replace(':', '-'));
    await writeFile(file, Buffer.alloc(layer().size));
    await fetch();
    await whole();
    registry.seen.length = 0;
    await fetch();
    assert.deepEqual(registry.seen, []);
  });
});
