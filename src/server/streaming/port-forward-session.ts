import type { Duplex, Writable } from 'node:stream';

import { describe, isKind } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';

/** What a session needs of the pods, and of the daemon. */
export interface PortForwardDeps {
  readonly target: Pick<PodStreams, 'portForward'>;
  readonly log: Logger;
}

/** One connection that a client makes through a port-forward. */
export interface ForwardedConnection {
  readonly sandboxId: string;
  readonly port: number;
  readonly data: Duplex;
  readonly error: Writable;
}

/**
 * Carries one connection, and ends its streams. What goes wrong before it stands is told on the error stream; kubectl
 * then gives up the whole port-forward. A connection that broke later is reset, and kubectl goes on with the others
 * (containerd#9875).
 */
export async function forwardConnection(
  { sandboxId, port, data, error }: ForwardedConnection,
  { target, log }: PortForwardDeps,
  signal: AbortSignal,
): Promise<void> {
  try {
    await target.portForward(sandboxId, port, data, signal);
    if (!data.writableEnded) data.end();
    error.end();
  } catch (err) {
    // A client that leaves is how connections end: kubectl resets those that the pod has ended.
    const level = isKind(err, 'cancelled') ? 'debug' : 'warn';
    log[level]({ sandbox: sandboxId, port, err: describe(err) }, 'connection of a port-forward failed');
    if (data.destroyed) error.end();
    else error.end(`error forwarding port ${port} to sandbox ${sandboxId}: ${describe(err)}`);
    data.destroy(err instanceof Error ? err : undefined);
  }
}
