import type { ClientStreams } from '../../runtime/client-streams.ts';
import type { CommandOutcome } from './command-status.ts';

/** The client's end of an exec or attach, whichever protocol it speaks. */
export interface CommandClient {
  readonly streams: ClientStreams;
  /** Aborts when the client has left. */
  readonly gone: AbortSignal;
  /**
   * Stops reading, tells the outcome, ends what the client reads from, and waits until the client has closed the
   * connection, `lingerMs` at the longest. To close it ourselves would be wrong: what a client still sends to a socket
   * that is closed makes the kernel throw away what that client has not read yet.
   */
  finish(outcome: CommandOutcome, lingerMs: number, stopping: AbortSignal): Promise<void>;
}

/** How long the client may take to open its streams, and to read the rest of the output when the command has ended. */
export interface StreamTimes {
  readonly creationTimeoutMs: number;
  readonly lingerMs: number;
  readonly idleTimeoutMs: number;
  /** How often a client is asked whether it is there while nothing is read from it. */
  readonly probeIntervalMs: number;
}
