import { CONTROL, FLAG_FIN, MAX_FRAME_BYTES, SETTINGS_INITIAL_WINDOW_SIZE, SPDY_VERSION } from './frames.ts';

/** The eight bytes before `length` bytes of a stream's data. */
export function dataHead(streamId: number, length: number, fin: boolean): Buffer {
  return head(streamId, fin ? FLAG_FIN : 0, length);
}

/** SYN_STREAM (2.6.1): opens a stream. */
export function synStreamFrame(streamId: number, headerBlock: Buffer, fin = false): Buffer {
  // The stream that this one belongs to, its priority and its slot are all 0.
  return control(
    CONTROL.synStream,
    fin ? FLAG_FIN : 0,
    Buffer.concat([words(streamId, 0), Buffer.alloc(2), headerBlock]),
  );
}

/** SYN_REPLY (2.6.2): accepts a stream. */
export function synReplyFrame(streamId: number, headerBlock: Buffer): Buffer {
  return control(CONTROL.synReply, 0, Buffer.concat([words(streamId), headerBlock]));
}

/** RST_STREAM (2.6.3): ends both directions of a stream at once. */
export function rstStreamFrame(streamId: number, status: number): Buffer {
  return control(CONTROL.rstStream, 0, words(streamId, status));
}

/** SETTINGS (2.6.4) that tell how much may be sent on each stream before it is taken. */
export function settingsFrame(initialWindowBytes: number): Buffer {
  return control(CONTROL.settings, 0, words(1, SETTINGS_INITIAL_WINDOW_SIZE, initialWindowBytes));
}

/** PING (2.6.5): the other side sends it back. */
export function pingFrame(id: number): Buffer {
  return control(CONTROL.ping, 0, words(id));
}

/** GOAWAY (2.6.6): no more streams after `lastStreamId`. */
export function goAwayFrame(lastStreamId: number, status: number): Buffer {
  return control(CONTROL.goAway, 0, words(lastStreamId, status));
}

/** WINDOW_UPDATE (2.6.8): so many bytes more may be sent. */
export function windowUpdateFrame(streamId: number, deltaBytes: number): Buffer {
  return control(CONTROL.windowUpdate, 0, words(streamId, deltaBytes));
}

function control(kind: number, flags: number, body: Buffer): Buffer {
  return Buffer.concat([head((0x8000 + SPDY_VERSION) * 0x1_0000 + kind, flags, body.length), body]);
}

function head(first: number, flags: number, length: number): Buffer {
  if (length > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${length} bytes`);
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeUInt32BE(first, 0);
  bytes.writeUInt8(flags, 4);
  bytes.writeUIntBE(length, 5, 3);
  return bytes;
}

function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}
