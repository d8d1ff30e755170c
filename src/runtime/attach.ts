import type { Writable } from 'node:stream';

import { raceSignal, sleep, withDeadline } from '../base/deadline.ts';
import { because } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isErrno } from '../sys/errno.ts';
import { FdStream } from '../sys/fd-stream.ts';
import { connectMessages } from '../sys/unix-socket.ts';
import type { ClientStreams, WindowSize } from './client-streams.ts';
import { forwardInput } from './forward.ts';
import { tellWindowSize } from './monitor-control.ts';
import { onWindowSize } from './window-size.ts';

/** A created or running container, as far as its streams go. */
export interface AttachTarget {
  readonly containerId: string;
  /** The monitor's attach socket, and its fifo of window sizes. */
  readonly socket: string;
  readonly window: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  /** Resolves when the container's first process has ended; rejects with the signal. */
  ended(signal: AbortSignal): Promise<void>;
}

const CONNECT_TIMEOUT_MS = 10_000;
const CONNECT_AGAIN_MS = 10;
/** The monitor's buffer, conmon's CONN_SOCK_BUF_SIZE: what a message has more is lost. */
const LONGEST_INPUT_BYTES = 32 * 1024;
/** What the monitor puts before each piece of output: conmon's STDOUT_PIPE, STDERR_PIPE. */
const STDERR = 3;
/** The kernel holds less for a socket unless it is told otherwise. */
const LAST_OUTPUT_BYTES = 1024 * 1024;
/**
 * The monitor waits for whoever is attached, and with it the container and its log do. So a client that takes nothing
 * for this long is let go.
 */
const STALL_TIMEOUT_MS = 10_000;
/** Half-open connections per container; see Attaches.#leave(). */
const MOST_PARKED = 16;

/** Connects clients with the streams of containers' first processes, through their monitors (conmon's attach socket). */
export class Attaches {
  readonly #log: Logger;
  readonly #stallTimeoutMs: number;
  /** Connections that are kept only so that the monitor does not see them end, by container. */
  readonly #parked = new Map<string, FdStream[]>();

  constructor(deps: { readonly log: Logger; readonly stallTimeoutMs?: number }) {
    this.#log = deps.log;
    this.#stallTimeoutMs = deps.stallTimeoutMs ?? STALL_TIMEOUT_MS;
  }

  /**
   * Attaches a client until the container ends, the client leaves, or its input ends (unless that is passed on: to a
   * container that takes input once, and has no terminal). Output from before is not repeated. Throws `precondition`
   * when the container has no monitor any more, `unavailable` when the client took too little for too long, the
   * signal's reason when it left. The container goes on in any case.
   */
  async attach(target: AttachTarget, client: ClientStreams, signal: AbortSignal): Promise<void> {
    const monitor = await connect(target, signal);
    const isOver = new AbortController();
    const during = AbortSignal.any([signal, isOver.signal]);
    try {
      if (target.tty) followWindow(target, client, during);
      const output = this.#forwardOutput(target, monitor, client, during);
      // Of both only the first one counts.
      output.catch(() => {});
      await raceSignal(Promise.race([output, inputEnd(target, monitor, client)]), signal);
      // What is there already still goes to the client.
      monitor.endWhenEmpty(LAST_OUTPUT_BYTES);
      await raceSignal(output, signal);
    } finally {
      isOver.abort();
      this.#leave(target, monitor, client);
    }
  }

  /** Lets go of what is kept for a container; call it when it has ended. */
  end(containerId: string): void {
    for (const connection of this.#parked.get(containerId) ?? []) connection.destroy();
    this.#parked.delete(containerId);
  }

  /** Lets go of everything. */
  close(): void {
    for (const containerId of [...this.#parked.keys()]) this.end(containerId);
  }

  /** Resolves when the client has taken all that the container wrote. */
  async #forwardOutput(
    target: AttachTarget,
    monitor: FdStream,
    client: ClientStreams,
    signal: AbortSignal,
  ): Promise<void> {
    const { promise: ended, resolve, reject } = Promise.withResolvers<void>();
    const take = (message: Buffer): void => {
      const to = message[0] === STDERR ? client.stderr : client.stdout;
      if (!to?.writable) return;
      to.write(message.subarray(1));
      // What it says of itself is that it wants one piece at a time; what counts is whether that one has gone.
      if (to.writableLength === 0) return;
      monitor.pause();
      this.#drained(target, to, signal).then(() => monitor.resume(), reject);
    };
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    monitor.on('data', take).once('end', resolve).once('error', reject);
    try {
      await ended;
      await Promise.all([endAndFinish(client.stdout, signal), endAndFinish(client.stderr, signal)]);
    } finally {
      signal.removeEventListener('abort', onAbort);
      monitor.off('data', take);
      monitor.pause();
    }
  }

  /** Waits for a slow client; once the container has ended no longer, because its exit waits for us then. */
  async #drained(target: AttachTarget, to: Writable, signal: AbortSignal): Promise<void> {
    const { promise: drained, resolve } = Promise.withResolvers<void>();
    to.once('drain', resolve);
    to.once('close', resolve);
    try {
      for (let waiting = to.writableLength; ; waiting = to.writableLength) {
        using patience = withDeadline('attached client', this.#stallTimeoutMs, signal);
        try {
          return await raceSignal(Promise.race([drained, target.ended(patience)]), patience);
        } catch (err) {
          signal.throwIfAborted();
          if (to.writableLength < waiting) continue;
          this.#log.warn({ container: target.containerId }, 'an attached client takes no output; it is let go');
          throw because('unavailable', `container ${target.containerId}: its output was not taken`, err);
        }
      }
    } finally {
      to.off('drain', resolve);
      to.off('close', resolve);
    }
  }

  /**
   * The monitor closes the container's input when the first client of a container that takes input once goes, also one
   * that never had to do with its input. Such a connection is therefore only half closed, so that the monitor sends
   * nothing and sees no end, until the container ends.
   */
  #leave({ containerId, stdin, stdinOnce }: AttachTarget, monitor: FdStream, client: ClientStreams): void {
    const parked = this.#parked.get(containerId) ?? [];
    const isOnlooker = stdin && stdinOnce && !client.stdin;
    if (!isOnlooker || monitor.readableEnded || monitor.destroyed || parked.length >= MOST_PARKED) {
      monitor.destroy();
      return;
    }
    monitor.stopReading();
    this.#parked.set(containerId, [...parked, monitor]);
  }
}

async function connect({ containerId, socket }: AttachTarget, signal: AbortSignal): Promise<FdStream> {
  using deadline = withDeadline(`monitor of container ${containerId}`, CONNECT_TIMEOUT_MS, signal);
  for (;;) {
    deadline.throwIfAborted();
    try {
      return new FdStream(connectMessages(socket), {
        readable: true,
        writable: true,
        messages: true,
        longestWriteBytes: LONGEST_INPUT_BYTES,
        atEnd: 'shutdown',
      });
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ECONNREFUSED')) {
        throw because('precondition', `container ${containerId} has no monitor to attach to`, err);
      }
      if (!isErrno(err, 'EAGAIN')) throw err;
    }
    await sleep(CONNECT_AGAIN_MS, deadline);
  }
}

/** Passes input on. Resolves when it has ended and that is the end of the attach, otherwise never. */
async function inputEnd(target: AttachTarget, monitor: FdStream, client: ClientStreams): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (target.stdin) {
    forwardInput(client.stdin, monitor);
    if (client.stdin && (!target.stdinOnce || target.tty)) monitor.once('finish', resolve);
  } else {
    // As if the program did not read it.
    client.stdin?.resume();
  }
  await promise;
}

/** Has the container's window follow the client's. */
function followWindow(target: AttachTarget, client: ClientStreams, signal: AbortSignal): void {
  let isTelling = false;
  let next: WindowSize | undefined;
  const tell = async (): Promise<void> => {
    try {
      for (let size = next; size; size = next) {
        next = undefined;
        await tellWindowSize(target, size, signal);
      }
    } finally {
      // In the same turn as the last look for a next one.
      isTelling = false;
    }
  };
  onWindowSize(client, (size) => {
    // Only the latest counts of those that come while the monitor is told.
    next = size;
    if (isTelling || signal.aborted) return;
    isTelling = true;
    // A size that cannot be told is no reason to end anything: the output's end tells when the monitor has gone.
    void tell().catch(() => {});
  });
}

async function endAndFinish(to: Writable | undefined, signal: AbortSignal): Promise<void> {
  if (!to || to.destroyed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  to.once('finish', resolve).once('close', resolve);
  to.end();
  await raceSignal(promise, signal);
}
