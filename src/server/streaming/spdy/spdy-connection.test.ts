import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { finished } from 'node:stream/promises';
import { describe as suite, test } from 'node:test';

import fc from 'fast-check';

import { SpdyClient } from '../../../../test/fakes/spdy-client.ts';
import {
  dataHead,
  goAwayFrame,
  pingFrame,
  rstStreamFrame,
  settingsFrame,
  synReplyFrame,
  synStreamFrame,
  windowUpdateFrame,
} from './frame-encoder.ts';
import { HeaderDeflater } from './header-block.ts';
import { SpdyConnection, type SpdyOptions } from './spdy-connection.ts';
import type { SpdyStream } from './spdy-stream.ts';

interface Ends {
  readonly client: SpdyClient;
  readonly connection: SpdyConnection;
  readonly streams: SpdyStream[];
}

function connected(options: Partial<SpdyOptions> = {}): Ends {
  const [near, far] = duplexPair() as [Duplex, Duplex];
  const streams: SpdyStream[] = [];
  const connection = new SpdyConnection(near, {
    maxStreams: 10,
    idleTimeoutMs: 60_000,
    onStream: (stream) => {
      streams.push(stream);
      stream.accept();
    },
    ...options,
  });
  return { client: new SpdyClient(far, ''), connection, streams };
}

suite('a SPDY connection', () => {
  test('bytes go both ways, and each side ends by itself', async () => {
    const { client, streams } = connected();
    const stream = await client.open({ a: 'b' });
    assert.deepEqual([...(streams[0]?.headers ?? [])], [['a', 'b']]);
    stream.end('there');
    assert.equal(await text(streams[0] as SpdyStream), 'there');
    streams[0]?.end('and back');
    assert.equal(await text(stream), 'and back');
  });

  test('opens wide windows to a client that says nothing of them, but not before it has spoken', async () => {
    const { client } = connected();
    assert.equal(client.frames.length, 0);
    await client.open({});
    assert.deepEqual(client.frames, [
      { type: 'settings', initialWindowBytes: 0x7fff_ffff },
      { type: 'windowUpdate', streamId: 0, deltaBytes: 0x7fff_ffff - 65_536 },
    ]);
  });

  test('sends a client that speaks of windows no more than they allow', async () => {
    const { client, streams } = connected();
    client.transport.write(settingsFrame(1000));
    const [one, two] = [await client.open({}), await client.open({})];
    let [ofOne, ofTwo] = [0, 0];
    one.on('data', ({ length }: Buffer) => {
      ofOne += length;
    });
    two.on('data', ({ length }: Buffer) => {
      ofTwo += length;
    });
    streams[0]?.end(Buffer.alloc(100_000));
    streams[1]?.end(Buffer.alloc(500));
    await once(two, 'end');
    assert.deepEqual([ofOne, ofTwo], [1000, 500]);
    client.transport.write(windowUpdateFrame(one.id, 98_000));
    await answered(client);
    // 64 KiB is what the connection as a whole allows.
    assert.equal(ofOne + ofTwo, 65_536);
    client.transport.write(windowUpdateFrame(0, 1_000_000));
    await answered(client);
    assert.equal(ofOne, 99_000);
    client.transport.write(windowUpdateFrame(one.id, 1_000_000));
    await once(one, 'end');
    assert.equal(ofOne, 100_000);
  });

  test('keeps narrow windows for a client that speaks of them, so that none of its streams stops the others', async () => {
    const { client, streams } = connected();
    client.transport.write(settingsFrame(100_000));
    const stream = await client.open({});
    assert.deepEqual(client.frames, [{ type: 'windowUpdate', streamId: 0, deltaBytes: 8 << 20 }]);
    const taker = streams[0] as SpdyStream;
    stream.write(Buffer.alloc(60_000));
    await once(taker, 'readable');
    await answered(client);
    const updates = (): unknown[] =>
      client.frames.flatMap((one) => (one.type === 'windowUpdate' ? [one.deltaBytes] : []));
    assert.deepEqual(updates(), [8 << 20]);
    assert.equal((taker.read(60_000) as Buffer).length, 60_000);
    await answered(client);
    // Once for the stream, once for the connection.
    assert.deepEqual(updates(), [8 << 20, 60_000, 60_000]);
  });

  test('takes all that a client sends by its windows, and gives back what it sends by ours', async () => {
    const { client, streams } = connected();
    client.transport.write(settingsFrame(1 << 20));
    client.transport.write(windowUpdateFrame(0, 1 << 20));
    const stream = await client.open({});
    streams[0]?.pipe(streams[0]);
    let bytes = 0;
    let credit = 0;
    stream.on('data', ({ length }: Buffer) => {
      bytes += length;
      credit += length;
      if (credit < 1 << 19) return;
      for (const id of [0, stream.id]) client.transport.write(windowUpdateFrame(id, credit));
      credit = 0;
    });
    const allowed = (): number =>
      client.frames.reduce(
        (sum, one) => sum + (one.type === 'windowUpdate' && one.streamId === stream.id ? one.deltaBytes : 0),
        65_536,
      );
    for (let sent = 0; sent < 4_000_000; sent += 10_000) {
      while (sent + 10_000 > allowed()) await once(client.transport, 'data');
      stream.write(Buffer.alloc(10_000));
    }
    stream.end();
    await once(stream, 'end');
    assert.equal(bytes, 4_000_000);
  });

  test('resets the stream of a client that speaks of windows and does not keep to them', async () => {
    const { client, streams } = connected();
    client.transport.write(settingsFrame(1 << 20));
    const [greedy, other] = [await client.open({}), await client.open({})];
    greedy.write(Buffer.alloc(1 << 20));
    other.end('unharmed');
    assert.equal(await text(streams[1] as SpdyStream), 'unharmed');
    await ended(greedy);
    assert.equal(greedy.resetStatus, 7);
  });

  test('refuses more streams than it may have, until others have ended', async () => {
    const { client, streams } = connected({ maxStreams: 2 });
    const first = await client.open({});
    await client.open({});
    await assert.rejects(client.open({}), /status 3/);
    first.end();
    streams[0]?.resume().end();
    await text(first);
    await client.open({});
  });

  test('a stream that is destroyed is reset, one that both sides ended is not', async () => {
    const { client, streams } = connected();
    const one = await client.open({});
    streams[0]?.destroy();
    await ended(one);
    assert.equal(one.resetStatus, 5);
    const two = await client.open({});
    streams[1]?.destroy(new Error('broken'));
    await ended(two);
    assert.equal(two.resetStatus, 6);
    const three = await client.open({});
    streams[2]?.resume().end();
    three.end();
    await text(three);
    await answered(client);
    assert.equal(three.resetStatus, undefined);
  });

  test('a full stream holds back the others, and reading it lets them go on', async () => {
    const { client, streams } = connected();
    const [full, other] = [await client.open({}), await client.open({})];
    full.write(Buffer.alloc(1 << 20));
    other.end('late');
    const [first, second] = streams as [SpdyStream, SpdyStream];
    await once(first, 'readable');
    const said = text(second);
    assert.equal(await Promise.race([said, answeredOrStuck(client)]), 'stuck');
    first.resume();
    assert.equal(await said, 'late');
  });

  test('a stream is also full of many small pieces, and loses none', async () => {
    const { client, streams } = connected();
    const [full, other] = [await client.open({}), await client.open({})];
    const sent = Buffer.alloc(20_000, 'in many pieces');
    const frames = Buffer.concat([...sent].flatMap((byte) => [dataHead(full.id, 1, false), Buffer.from([byte])]));
    for (let at = 0; at < frames.length; at += 4096) client.transport.write(frames.subarray(at, at + 4096));
    full.end();
    other.end('late');
    const [first, second] = streams as [SpdyStream, SpdyStream];
    await once(first, 'readable');
    const said = text(second);
    assert.equal(await Promise.race([said, answeredOrStuck(client)]), 'stuck');
    assert.ok(first.readableLength < 2000, `${first.readableLength} pieces are held`);
    assert.deepEqual(await buffer(first), sent);
    assert.equal(await said, 'late');
  });

  test('a full stream that is given up lets the others go on', async () => {
    const { client, streams } = connected();
    const [full, other] = [await client.open({}), await client.open({})];
    full.write(Buffer.alloc(1 << 20));
    other.end('late');
    await once(streams[0] as SpdyStream, 'readable');
    streams[0]?.destroy();
    assert.equal(await text(streams[1] as SpdyStream), 'late');
  });

  test('its streams break when it does', async () => {
    const { client, connection, streams } = connected();
    await client.open({});
    const failure = once(streams[0] as SpdyStream, 'error');
    client.transport.destroy();
    assert.match(String((await failure)[0]), /the client has left/);
    assert.equal(await connection.closed, 'the client has left');
  });

  test('is over at once when the client had left before', async () => {
    const [near] = duplexPair() as [Duplex, Duplex];
    near.destroy();
    await once(near, 'close');
    const connection = new SpdyConnection(near, { maxStreams: 1, idleTimeoutMs: 60_000, onStream: () => {} });
    assert.equal(await connection.closed, 'the client has left');
  });

  test('a goodbye of the client lets open streams end', async () => {
    const { client, connection, streams } = connected();
    const stream = await client.open({});
    client.transport.write(goAwayFrame(0, 0));
    stream.end('last words');
    assert.equal(await text(streams[0] as SpdyStream), 'last words');
    streams[0]?.end();
    assert.equal(await connection.closed, 'the client said goodbye');
  });

  test('answers pings, but not without end to a client that does not read the answers', async () => {
    const { client } = connected();
    client.ping(1);
    await once(client.transport, 'data');
    assert.deepEqual(client.frames, [{ type: 'ping', id: 1 }]);
    const [near, far] = duplexPair() as [Duplex, Duplex];
    const connection = new SpdyConnection(near, { maxStreams: 1, idleTimeoutMs: 60_000, onStream: () => {} });
    const pings = Buffer.concat(Array.from({ length: 1000 }, () => pingFrame(3)));
    for (let count = 0; count < 50; count++) far.write(pings);
    const heldBytes = (): number => near.writableLength + far.readableLength;
    for (let [held, turns] = [-1, 0]; turns < 20; turns++) {
      if (held !== heldBytes()) [held, turns] = [heldBytes(), 0];
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.ok(heldBytes() < 200_000, `${heldBytes()} bytes of answers are held`);
    // Whoever reads them gets all.
    let answers = 0;
    for await (const { length } of far as AsyncIterable<Buffer>) {
      answers += length / 12;
      if (answers === 50_000) break;
    }
    await connection.closed;
  });

  test('any frames in any order break nothing but the connection', async () => {
    const id = fc.integer({ min: 1, max: 9 });
    const frame = fc.oneof(
      { weight: 3, arbitrary: id.map((streamId) => ({ open: streamId })) },
      fc
        .record({ streamId: id, size: fc.nat({ max: 400_000 }), fin: fc.boolean() })
        .map(({ streamId, size, fin }) => Buffer.concat([dataHead(streamId, size, fin), Buffer.alloc(size)])),
      id.map((streamId) => rstStreamFrame(streamId, 5)),
      id.map((streamId) => synReplyFrame(streamId, Buffer.alloc(4))),
      fc
        .tuple(fc.nat({ max: 9 }), fc.nat({ max: 100_000 }))
        .map(([streamId, bytes]) => windowUpdateFrame(streamId, bytes)),
      fc.nat({ max: 100_000 }).map((bytes) => settingsFrame(bytes)),
      fc.nat({ max: 9 }).map((number) => pingFrame(number)),
      { weight: 1, arbitrary: fc.constant(goAwayFrame(0, 0)) },
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
    );
    const conduct = fc.constantFrom('read', 'end', 'destroy', 'write', 'nothing', 'reset');
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { maxLength: 30 }), fc.array(conduct), async (frames, conducts) => {
        const [near, far] = duplexPair() as [Duplex, Duplex];
        let heldBytes = 0;
        const streams: SpdyStream[] = [];
        const connection = new SpdyConnection(near, {
          maxStreams: 4,
          idleTimeoutMs: 60_000,
          onStream: (stream) => {
            streams.push(stream);
            stream.accept();
            const how = conducts[streams.length % (conducts.length + 1)];
            if (how === 'read') stream.resume();
            if (how === 'end') stream.end();
            if (how === 'destroy') stream.destroy();
            if (how === 'write') stream.write(Buffer.alloc(200_000));
            if (how === 'reset') stream.reset(3);
          },
        });
        far.resume();
        const deflater = new HeaderDeflater();
        for (const one of frames) {
          const bytes = Buffer.isBuffer(one) ? one : synStreamFrame(one.open, deflater.deflate(new Map([['x', 'y']])));
          far.write(bytes);
          await new Promise((resolve) => setImmediate(resolve));
          heldBytes = streams.reduce((sum, { readableLength }) => sum + readableLength, 0);
          assert.ok(heldBytes < 4 * 512 * 1024, `${heldBytes} bytes are held`);
        }
        connection.close('the test is over');
        await connection.closed;
        assert.ok(streams.every(({ destroyed }) => destroyed));
      }),
      { numRuns: 300 },
    );
  });
});

/** Waits until a stream is over, whatever its error. */
async function ended(stream: Duplex): Promise<void> {
  await finished(stream).catch(() => {});
}

/** Waits until the server has handled all that was sent: it answers a ping after that. */
async function answered(client: SpdyClient): Promise<void> {
  const id = 101;
  const before = client.frames.length;
  client.ping(id);
  while (!client.frames.slice(before).some((frame) => frame.type === 'ping' && frame.id === id)) {
    await once(client.transport, 'data');
  }
}

async function answeredOrStuck(client: SpdyClient): Promise<string> {
  const late = new Promise<string>((resolve) => setTimeout(() => resolve('stuck'), 50));
  return await Promise.race([answered(client).then(() => 'answered'), late]);
}
