import {
  CONTROL,
  FLAG_FIN,
  FLAG_UNIDIRECTIONAL,
  type Frame,
  MAX_UINT31,
  SETTINGS_INITIAL_WINDOW_SIZE,
  SPDY_VERSION,
} from './frames.ts';
import { protocolError } from './protocol-error.ts';

const HEADER_BYTES = 8;
/** What a control frame may be long. All of it is held in memory; header blocks of real clients have some 50 bytes. */
const MAX_CONTROL_BYTES = 32 * 1024;
const SETTING_BYTES = 8;

/** What is being read: a frame's head, a control frame's body, or what must be passed on or over. */
type State =
  | { readonly at: 'head' }
  | { readonly at: 'control'; readonly kind: number; readonly flags: number }
  | { readonly at: 'data'; readonly streamId: number; readonly fin: boolean; left: number }
  | { readonly at: 'unknown'; left: number };

/**
 * Cuts bytes into frames. Data is handed out as it comes, never held back; of a control frame at most 32 KiB are kept.
 * After it has thrown, the rest of the connection cannot be understood.
 */
export class FrameDecoder {
  #state: State = { at: 'head' };
  #kept: Buffer = Buffer.alloc(HEADER_BYTES);
  #keptBytes = 0;

  /** The frames that are complete with `chunk`, and pieces of data. Throws `invalid` for what no SPDY/3.1 client sends. */
  *decode(chunk: Buffer): Generator<Frame, void, undefined> {
    let rest = chunk;
    for (;;) {
      const state = this.#state;
      if (state.at === 'data' || state.at === 'unknown') {
        const bytes = rest.subarray(0, state.left);
        rest = rest.subarray(bytes.length);
        state.left -= bytes.length;
        const isLast = state.left === 0;
        if (isLast) this.#expect({ at: 'head' }, HEADER_BYTES);
        if (state.at === 'data' && (bytes.length > 0 || isLast)) {
          yield { type: 'data', streamId: state.streamId, fin: state.fin && isLast, bytes };
        }
        if (!isLast) return;
        continue;
      }
      const wanted = this.#kept.length - this.#keptBytes;
      const taken = rest.copy(this.#kept, this.#keptBytes, 0, wanted);
      rest = rest.subarray(taken);
      this.#keptBytes += taken;
      if (taken < wanted) return;
      const kept = this.#kept;
      if (state.at === 'head') {
        this.#begin(kept);
      } else {
        this.#expect({ at: 'head' }, HEADER_BYTES);
        yield parseControl(state.kind, state.flags, kept);
      }
    }
  }

  #expect(state: State, bytes: number): void {
    this.#state = state;
    this.#kept = Buffer.alloc(bytes);
    this.#keptBytes = 0;
  }

  #begin(head: Buffer): void {
    const first = head.readUInt32BE(0);
    const flags = head.readUInt8(4);
    const length = head.readUIntBE(5, 3);
    const isControl = first > MAX_UINT31;
    if (!isControl) {
      if (first === 0) throw protocolError('data for stream 0');
      this.#expect({ at: 'data', streamId: first, fin: (flags & FLAG_FIN) !== 0, left: length }, 0);
      return;
    }
    const version = (first >>> 16) & 0x7fff;
    const kind = first & 0xffff;
    if (version !== SPDY_VERSION) throw protocolError(`a frame of version ${version}`);
    // 2.2.1: "Control frames which are not recognized must be ignored".
    if (!Object.values<number>(CONTROL).includes(kind)) {
      this.#expect({ at: 'unknown', left: length }, 0);
      return;
    }
    if (length > MAX_CONTROL_BYTES) throw protocolError(`a control frame of ${length} bytes`);
    this.#expect({ at: 'control', kind, flags }, length);
  }
}

function parseControl(kind: number, flags: number, body: Buffer): Frame {
  const fin = (flags & FLAG_FIN) !== 0;
  switch (kind) {
    case CONTROL.synStream:
      atLeast(body, 10);
      return {
        type: 'synStream',
        streamId: streamIdAt(body, 0),
        fin,
        unidirectional: (flags & FLAG_UNIDIRECTIONAL) !== 0,
        headerBlock: body.subarray(10),
      };
    case CONTROL.synReply:
    case CONTROL.headers:
      atLeast(body, 4);
      return {
        type: kind === CONTROL.synReply ? 'synReply' : 'headers',
        streamId: streamIdAt(body, 0),
        fin,
        headerBlock: body.subarray(4),
      };
    case CONTROL.rstStream:
      atLeast(body, 8);
      return { type: 'rstStream', streamId: streamIdAt(body, 0), status: body.readUInt32BE(4) };
    case CONTROL.settings:
      return { type: 'settings', initialWindowBytes: initialWindow(body) };
    case CONTROL.ping:
      atLeast(body, 4);
      return { type: 'ping', id: body.readUInt32BE(0) };
    case CONTROL.goAway:
      atLeast(body, 8);
      return { type: 'goAway', lastStreamId: body.readUInt32BE(0) & MAX_UINT31, status: body.readUInt32BE(4) };
    default:
      atLeast(body, 8);
      // Unlike the others' ids this one may be 0: the window of the connection.
      return {
        type: 'windowUpdate',
        streamId: body.readUInt32BE(0) & MAX_UINT31,
        deltaBytes: body.readUInt32BE(4) & MAX_UINT31,
      };
  }
}

function atLeast(body: Buffer, bytes: number): void {
  if (body.length < bytes) throw protocolError(`a control frame of ${body.length} bytes where ${bytes} are needed`);
}

function streamIdAt(body: Buffer, offset: number): number {
  const id = body.readUInt32BE(offset) & MAX_UINT31;
  if (id === 0) throw protocolError('a control frame for stream 0');
  return id;
}

function initialWindow(body: Buffer): number | undefined {
  atLeast(body, 4);
  const count = body.readUInt32BE(0);
  if (count * SETTING_BYTES > body.length - 4) throw protocolError('a SETTINGS frame is cut short');
  let bytes: number | undefined;
  for (let at = 4; at < 4 + count * SETTING_BYTES; at += SETTING_BYTES) {
    const id = body.readUIntBE(at + 1, 3);
    if (id === SETTINGS_INITIAL_WINDOW_SIZE) bytes = body.readUInt32BE(at + 4) & MAX_UINT31;
  }
  return bytes;
}
