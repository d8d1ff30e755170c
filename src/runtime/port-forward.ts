import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import { withDeadline } from '../base/deadline.ts';
import { BerthError, because } from '../base/errors.ts';
import { isErrno } from '../sys/errno.ts';
import type { NamespaceMaker } from '../sys/namespaces.ts';
import { connectLoopback, openTcpSocket, resetOnClose } from '../sys/tcp.ts';

/** Where a forwarded connection goes. */
export interface ForwardTarget {
  readonly sandboxId: string;
  /** The file of the sandbox's network namespace; undefined is the host's. */
  readonly netns: string | undefined;
  readonly port: number;
}

/** The connection to a program in a sandbox. */
interface Connection {
  readonly socket: Socket;
  /** The socket's own; closed with it. */
  readonly fd: number;
}

/** A program that listens is there at once; only one whose queue is full keeps a client waiting. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Connections of clients to ports inside of sandboxes. */
export class PortForwards {
  readonly #namespaces: Pick<NamespaceMaker, 'openSocket'>;
  readonly #running = new Map<string, Set<AbortController>>();

  constructor(namespaces: Pick<NamespaceMaker, 'openSocket'>) {
    this.#namespaces = namespaces;
  }

  /**
   * Connects to the port as a program inside would, by `localhost`: IPv4 first, then IPv6. Carries bytes both ways
   * until both sides have ended theirs. Throws `unavailable` when nobody listens; the client is untouched then. When
   * the connection breaks, either side's break becomes the other's: the client is destroyed, the program's connection
   * reset; so also when the signal aborts, or end() is called.
   */
  async forward(target: ForwardTarget, client: Duplex, signal: AbortSignal): Promise<void> {
    const stopped = new AbortController();
    const running = this.#running.get(target.sandboxId) ?? new Set();
    this.#running.set(target.sandboxId, running.add(stopped));
    try {
      const either = AbortSignal.any([signal, stopped.signal]);
      const onClose = (): void => stopped.abort(clientLeft(target));
      client.once('close', onClose);
      if (client.destroyed) onClose();
      const connection = await this.#connect(target, either).finally(() => client.off('close', onClose));
      await join(client, connection, either, target);
    } finally {
      running.delete(stopped);
      if (running.size === 0) this.#running.delete(target.sandboxId);
    }
  }

  /** Breaks all connections of a sandbox; call it when it stops: each of them holds its network namespace. */
  end(sandboxId: string): void {
    for (const forward of this.#running.get(sandboxId) ?? []) {
      forward.abort(new BerthError('unavailable', `sandbox ${sandboxId} has stopped`));
    }
  }

  async #connect(target: ForwardTarget, signal: AbortSignal): Promise<Connection> {
    const { sandboxId, port } = target;
    using deadline = withDeadline(`connection to port ${port} of sandbox ${sandboxId}`, CONNECT_TIMEOUT_MS, signal);
    try {
      return await this.#connectBy('ipv4', target, deadline);
    } catch (refusal) {
      deadline.throwIfAborted();
      try {
        return await this.#connectBy('ipv6', target, deadline);
      } catch (err) {
        deadline.throwIfAborted();
        const problems = isErrno(err, 'EAFNOSUPPORT', 'EADDRNOTAVAIL') ? [refusal] : [refusal, err];
        const cause = problems.length === 1 ? refusal : new AggregateError(problems, problems.map(textOf).join('; '));
        throw because('unavailable', `port ${port} of sandbox ${sandboxId} takes no connection`, cause);
      }
    }
  }

  async #connectBy(family: 'ipv4' | 'ipv6', { netns, port }: ForwardTarget, signal: AbortSignal): Promise<Connection> {
    const fd =
      netns === undefined ? openTcpSocket(family) : await this.#namespaces.openSocket({ netns, family }, signal);
    await connectLoopback(fd, family, port, signal);
    // One piece ahead each way: the kernel holds small ones together, while each would be a buffer here.
    const ahead: object = { readableHighWaterMark: 1, writableHighWaterMark: 1 };
    return { socket: new Socket({ ...ahead, fd, readable: true, writable: true, allowHalfOpen: true }), fd };
  }
}

/** Carries bytes and ends both ways, each no faster than it is taken. */
async function join(
  client: Duplex,
  { socket, fd }: Connection,
  signal: AbortSignal,
  target: ForwardTarget,
): Promise<void> {
  const where = `port ${target.port} of sandbox ${target.sandboxId}`;
  const { promise: broken, reject } = Promise.withResolvers<never>();
  const finished = Promise.all([once(socket, 'close'), once(client, 'finish')]);
  const onAbort = (): void => reject(signal.reason);
  const onClientClose = (): void => {
    if (!client.readableEnded || !client.writableFinished) reject(clientLeft(target));
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  if (client.destroyed) onClientClose();
  // For good: who destroys it does so with an error, also after the end.
  client.on('error', (err) => reject(because('cancelled', `client of ${where}`, err)));
  client.once('close', onClientClose);
  socket.on('error', (err) => reject(because('unavailable', `connection to ${where} broke`, err)));
  client.pipe(socket);
  socket.pipe(client);
  try {
    await Promise.race([finished, broken]);
  } catch (err) {
    client.destroy(err instanceof Error ? err : undefined);
    if (!socket.destroyed) {
      // Not socket.resetAndDestroy(): where an end is still on its way, it leaves the socket open for ever, and a process
      // with such a one spins when it shall exit (Node 24).
      resetOnClose(fd);
      socket.destroy();
    }
    throw err;
  } finally {
    signal.removeEventListener('abort', onAbort);
    client.off('close', onClientClose);
  }
}

function clientLeft({ port, sandboxId }: ForwardTarget): BerthError {
  return new BerthError('cancelled', `client of port ${port} of sandbox ${sandboxId} left`);
}

async function once(stream: Duplex, event: 'close' | 'finish'): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once(event, () => resolve());
  await promise;
}

function textOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
