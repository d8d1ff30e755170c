import { Socket } from 'node:net';

import { BerthError } from '../base/errors.ts';

/** Far more than a monitor ever says in one line. */
const LONGEST_LINE_BYTES = 64 * 1024;

/** Reads lines from a pipe as they come, without a thread that waits. Owns the descriptor. */
export class LineReader {
  readonly #socket: Socket;
  readonly #lines: string[] = [];
  #rest = '';
  #failure: unknown;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(fd: number) {
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#socket.setEncoding('utf8');
    this.#socket.on('data', (text: string) => this.#take(text));
    this.#socket.on('end', () => this.#end());
    this.#socket.on('close', () => this.#end());
    this.#socket.on('error', (err) => {
      this.#failure = err;
      this.#end();
    });
  }

  /** The next line without its line break, or undefined when the other side has closed the pipe. One caller at a time. */
  async next(signal: AbortSignal): Promise<string | undefined> {
    for (;;) {
      signal.throwIfAborted();
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended) return undefined;
      await this.#changed(signal);
    }
  }

  /** Closes the pipe; lines that were read stay. */
  close(): void {
    this.#socket.destroy();
  }

  async #changed(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    const onAbort = (): void => resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  #take(text: string): void {
    const [first = '', ...others] = text.split('\n');
    const lines = [this.#rest + first, ...others];
    this.#rest = lines.pop() ?? '';
    this.#lines.push(...lines);
    if (this.#rest.length > LONGEST_LINE_BYTES) {
      this.#failure = new BerthError('internal', `a line on the pipe is longer than ${LONGEST_LINE_BYTES} bytes`);
      this.#socket.destroy();
    }
    this.#wake?.();
  }

  #end(): void {
    if (this.#rest !== '') this.#lines.push(this.#rest);
    this.#rest = '';
    this.#ended = true;
    this.#wake?.();
  }
}
