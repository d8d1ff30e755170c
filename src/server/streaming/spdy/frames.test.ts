import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../../../base/errors.ts';
import { FrameDecoder } from './frame-decoder.ts';
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
import type { Frame } from './frames.ts';

const streamId = fc.integer({ min: 1, max: 0x7fff_ffff });
const uint32 = fc.nat({ max: 0xffff_ffff });
const block = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));

/** A frame's bytes, and how it must be read. */
const frames: fc.Arbitrary<{ bytes: Buffer; frame: Frame }> = fc.oneof(
  fc.record({ id: streamId, fin: fc.boolean(), bytes: block }).map(({ id, fin, bytes }) => ({
    bytes: Buffer.concat([dataHead(id, bytes.length, fin), bytes]),
    frame: { type: 'data' as const, streamId: id, fin, bytes },
  })),
  fc.record({ id: streamId, fin: fc.boolean(), headerBlock: block }).map(({ id, fin, headerBlock }) => ({
    bytes: synStreamFrame(id, headerBlock, fin),
    frame: { type: 'synStream' as const, streamId: id, fin, unidirectional: false, headerBlock },
  })),
  fc.record({ id: streamId, headerBlock: block }).map(({ id, headerBlock }) => ({
    bytes: synReplyFrame(id, headerBlock),
    frame: { type: 'synReply' as const, streamId: id, fin: false, headerBlock },
  })),
  fc.record({ id: streamId, status: uint32 }).map(({ id, status }) => ({
    bytes: rstStreamFrame(id, status),
    frame: { type: 'rstStream' as const, streamId: id, status },
  })),
  fc.nat({ max: 0x7fff_ffff }).map((initialWindowBytes) => ({
    bytes: settingsFrame(initialWindowBytes),
    frame: { type: 'settings' as const, initialWindowBytes },
  })),
  uint32.map((id) => ({ bytes: pingFrame(id), frame: { type: 'ping' as const, id } })),
  fc.record({ lastStreamId: fc.nat({ max: 0x7fff_ffff }), status: uint32 }).map(({ lastStreamId, status }) => ({
    bytes: goAwayFrame(lastStreamId, status),
    frame: { type: 'goAway' as const, lastStreamId, status },
  })),
  fc
    .record({ id: fc.nat({ max: 0x7fff_ffff }), deltaBytes: fc.nat({ max: 0x7fff_ffff }) })
    .map(({ id, deltaBytes }) => ({
      bytes: windowUpdateFrame(id, deltaBytes),
      frame: { type: 'windowUpdate' as const, streamId: id, deltaBytes },
    })),
);

/** The bytes, cut at the given places. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return places.slice(1).map((end, index) => bytes.subarray(places[index], end));
}

/** Data comes in as many pieces as the chunks had: puts those of one frame together again. */
function joined(seen: readonly Frame[]): Frame[] {
  const whole: Frame[] = [];
  for (const frame of seen) {
    const last = whole.at(-1);
    if (frame.type === 'data' && last?.type === 'data' && last.streamId === frame.streamId && !last.fin) {
      whole[whole.length - 1] = { ...frame, bytes: Buffer.concat([last.bytes, frame.bytes]) };
    } else {
      whole.push(frame);
    }
  }
  return whole;
}

suite('SPDY frames', () => {
  test('each is read as it was written, wherever the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(frames, { maxLength: 20 }), fc.array(fc.nat(), { maxLength: 20 }), (written, cuts) => {
        const decoder = new FrameDecoder();
        const bytes = Buffer.concat(written.map((one) => one.bytes));
        const seen = pieces(bytes, cuts).flatMap((piece) => [...decoder.decode(piece)]);
        assert.deepEqual(joined(seen), joined(written.map((one) => one.frame)));
      }),
    );
  });

  test('the bytes of a real client are understood', () => {
    // What Go's spdystream sends for its first ping, and for data with FIN on stream 3.
    const seen = [...new FrameDecoder().decode(Buffer.from('8003000600000004000000010000000301000002686a', 'hex'))];
    assert.deepEqual(seen, [
      { type: 'ping', id: 1 },
      { type: 'data', streamId: 3, fin: true, bytes: Buffer.from('hj') },
    ]);
  });

  test('any bytes give frames or an error for the client, and little is held', () => {
    const head = fc.constantFrom('8003', '0000', '').map((hex) => Buffer.from(hex, 'hex'));
    const chunk = fc
      .tuple(head, fc.uint8Array({ maxLength: 60 }))
      .map(([start, rest]) => Buffer.concat([start, Buffer.from(rest)]));
    fc.assert(
      fc.property(fc.array(chunk, { maxLength: 10 }), (chunks) => {
        const decoder = new FrameDecoder();
        const inputBytes = chunks.reduce((sum, { length }) => sum + length, 0);
        let dataBytes = 0;
        try {
          for (const one of chunks) {
            for (const frame of decoder.decode(one)) {
              if (frame.type === 'data') dataBytes += frame.bytes.length;
            }
          }
        } catch (err) {
          assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
        }
        assert.ok(dataBytes <= inputBytes);
      }),
      { numRuns: 2000 },
    );
  });

  for (const [name, hex] of [
    ['data for stream 0', '0000000000000000'],
    ['another version', '8002000600000004'],
    ['a SYN_STREAM that is too long', '80030001000fffff'],
    ['a PING without its id', '8003000600000000'],
    ['SETTINGS with fewer entries than it says', '800300040000000400000009'],
    ['a RST_STREAM for stream 0', '80030003000000080000000000000001'],
  ] as const) {
    test(`${name} is a protocol error`, () => {
      assert.throws(() => [...new FrameDecoder().decode(Buffer.from(hex, 'hex'))], { kind: 'invalid' });
    });
  }

  test('control frames of unknown types are passed over, however long', () => {
    const decoder = new FrameDecoder();
    const unknown = Buffer.concat([Buffer.from('800300630000ffff', 'hex'), Buffer.alloc(0xffff, 0xff)]);
    const seen = pieces(Buffer.concat([unknown, pingFrame(7)]), [3, 9, 1000]).flatMap((one) => [
      ...decoder.decode(one),
    ]);
    assert.deepEqual(seen, [{ type: 'ping', id: 7 }]);
  });
});
