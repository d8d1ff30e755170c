import { closeSync, rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

import { check } from '../../src/sys/errno.ts';
import { libc } from '../../src/sys/libc.ts';

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 0o2000002;
const MSG_DONTWAIT = 0x40;

const socketCalls = {
  socket: libc.func('socket', 'int', ['int', 'int', 'int']) as (
    family: number,
    type: number,
    protocol: number,
  ) => number,
  bind: libc.func('bind', 'int', ['int', 'void *', 'uint']) as (
    fd: number,
    address: Uint8Array,
    length: number,
  ) => number,
  recv: libc.func('recv', 'long', ['int', 'void *', 'size_t', 'int']) as (
    fd: number,
    data: Uint8Array,
    length: number,
    flags: number,
  ) => number,
};

/** The socket at which a service manager hears from a service (sd_notify(3)). */
export class NotifySocket implements Disposable {
  readonly path: string;
  readonly #fd: number;
  readonly #data = Buffer.alloc(4096);

  constructor(path: string) {
    this.path = path;
    this.#fd = check('socket', 'test', socketCalls.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0));
    const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(path)]);
    check('bind', path, socketCalls.bind(this.#fd, address, address.length));
  }

  /** The next state that was not yet asked for and has the text in it; those before it are gone. */
  async next(text: string, timeoutMs = 30_000): Promise<string> {
    const giveUpAt = Date.now() + timeoutMs;
    for (;;) {
      const length = socketCalls.recv(this.#fd, this.#data, this.#data.length, MSG_DONTWAIT);
      const state = this.#data.toString('utf8', 0, Math.max(length, 0));
      if (length > 0 && state.includes(text)) return state;
      if (length > 0) continue;
      if (Date.now() > giveUpAt) throw new Error(`no state with ${text} within ${timeoutMs} ms`);
      await delay(5);
    }
  }

  /** Forgets what has come until now. */
  drain(): void {
    while (socketCalls.recv(this.#fd, this.#data, this.#data.length, MSG_DONTWAIT) > 0);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    rmSync(this.path, { force: true });
  }
}
