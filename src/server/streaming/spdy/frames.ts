/**
 * SPDY/3.1 on the wire: what kubectl, crictl and the kubelet speak for exec, attach and port-forward. The draft is
 * draft-mbelshe-httpbis-spdy-00 with the session windows of SPDY/3.1; the numbers in comments are its sections.
 */

/** Why a stream is reset (2.6.3). */
export const RST_STATUS = Object.freeze({
  protocolError: 1,
  invalidStream: 2,
  refusedStream: 3,
  cancel: 5,
  internalError: 6,
  flowControlError: 7,
  streamAlreadyClosed: 9,
});

/** Why a whole connection ends (2.6.6). */
export const GO_AWAY_STATUS = Object.freeze({ ok: 0, protocolError: 1, internalError: 2 });

/** The id of stream 0: a WINDOW_UPDATE for it is about the connection. */
export const CONNECTION_ID = 0;
/** Stream ids, and windows in bytes, have 31 bits. */
export const MAX_UINT31 = 0x7fff_ffff;
/** What either side may send before it hears of a window: for a stream and, in SPDY/3.1, for the connection (2.6.8). */
export const INITIAL_WINDOW_BYTES = 64 * 1024;
/** A frame says its length with 24 bits. */
export const MAX_FRAME_BYTES = 0xff_ffff;

/** The types of control frames (2.6). */
export const CONTROL = Object.freeze({
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
});
export const SPDY_VERSION = 3;
export const FLAG_FIN = 1;
export const FLAG_UNIDIRECTIONAL = 2;
export const SETTINGS_INITIAL_WINDOW_SIZE = 7;

/** A piece of what a stream carries. `bytes` may be empty; `fin` is on the last piece of the last frame. */
export interface DataFrame {
  readonly type: 'data';
  readonly streamId: number;
  readonly fin: boolean;
  readonly bytes: Buffer;
}

/** A frame as it was read. Header blocks are still compressed: they must be inflated in the order of their frames. */
export type Frame =
  | DataFrame
  | {
      readonly type: 'synStream';
      readonly streamId: number;
      readonly fin: boolean;
      readonly unidirectional: boolean;
      readonly headerBlock: Buffer;
    }
  | { readonly type: 'synReply'; readonly streamId: number; readonly fin: boolean; readonly headerBlock: Buffer }
  | { readonly type: 'headers'; readonly streamId: number; readonly fin: boolean; readonly headerBlock: Buffer }
  | { readonly type: 'rstStream'; readonly streamId: number; readonly status: number }
  | { readonly type: 'settings'; readonly initialWindowBytes: number | undefined }
  | { readonly type: 'ping'; readonly id: number }
  | { readonly type: 'goAway'; readonly lastStreamId: number; readonly status: number }
  | { readonly type: 'windowUpdate'; readonly streamId: number; readonly deltaBytes: number };

/** Names and values of a header block. Names are in small letters. */
export type SpdyHeaders = ReadonlyMap<string, string>;
