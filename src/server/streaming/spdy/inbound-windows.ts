import { settingsFrame, windowUpdateFrame } from './frame-encoder.ts';
import { CONNECTION_ID, INITIAL_WINDOW_BYTES, MAX_UINT31 } from './frames.ts';

/**
 * How much a client may send. Clients of Kubernetes know no windows: what holds them back is TCP, and that nothing is
 * read while one of their streams is full. They, and those that say nothing about windows, are allowed all there is. A
 * client that speaks of windows must never be held back so: its own grants wait behind what it sends. It gets narrow
 * ones, and they are opened again as fast as what came in is consumed.
 */
export class InboundWindows {
  readonly #send: (frame: Buffer) => void;
  /** What was consumed and the client was not told, of single streams and, for id 0, of all. */
  readonly #unsaidBytes = new Map<number, number>();
  #refillBytes = MAX_UINT31;
  #areNarrow = false;

  constructor(send: (frame: Buffer) => void) {
    this.#send = send;
  }

  /** True when a client that fills a stream has broken its promise. */
  get areNarrow(): boolean {
    return this.#areNarrow;
  }

  /** Tells the client how much it may send. All its streams together get `connectionBytes` if their windows are narrow. */
  open(areNarrow: boolean, connectionBytes: number): void {
    this.#areNarrow = areNarrow;
    if (areNarrow) {
      this.#refillBytes = INITIAL_WINDOW_BYTES / 2;
      this.#send(windowUpdateFrame(CONNECTION_ID, connectionBytes));
    } else {
      this.#refillBytes = MAX_UINT31 / 2;
      this.#send(settingsFrame(MAX_UINT31));
      this.#send(windowUpdateFrame(CONNECTION_ID, MAX_UINT31 - INITIAL_WINDOW_BYTES));
    }
  }

  /** So much of what came in holds no memory any more; of a stream that goes on, `streamId`, or of one that is over. */
  consumed(bytes: number, streamId?: number): void {
    this.#count(CONNECTION_ID, bytes);
    if (streamId !== undefined) this.#count(streamId, bytes);
  }

  /** The stream is over. */
  forget(streamId: number): void {
    this.#unsaidBytes.delete(streamId);
  }

  #count(id: number, bytes: number): void {
    const unsaid = (this.#unsaidBytes.get(id) ?? 0) + bytes;
    const mustSay = unsaid >= this.#refillBytes;
    this.#unsaidBytes.set(id, mustSay ? 0 : unsaid);
    if (mustSay) this.#send(windowUpdateFrame(id, unsaid));
  }
}
