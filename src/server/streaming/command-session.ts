import { BerthError } from '../../base/errors.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import type { CommandClient } from './command-client.ts';
import type { CommandOutcome } from './command-status.ts';
import type { CommandStreams } from './stream-request.ts';

/** What a session needs of the pods. */
export type CommandTarget = Pick<PodStreams, 'exec' | 'attach'>;

/**
 * Runs one exec or attach for a client and tells it how it ended. `stopping` ends it early. Returns the outcome, for the
 * log; does not throw for what goes wrong in the container.
 */
export async function serveCommand(
  request: CommandStreams,
  client: CommandClient,
  target: CommandTarget,
  lingerMs: number,
  stopping: AbortSignal,
): Promise<CommandOutcome> {
  const outcome = await run(request, client, target, AbortSignal.any([client.gone, stopping]));
  if (!client.gone.aborted) await client.finish(outcome, lingerMs, stopping);
  return outcome;
}

async function run(
  request: CommandStreams,
  client: CommandClient,
  target: CommandTarget,
  signal: AbortSignal,
): Promise<CommandOutcome> {
  const { containerId, command, tty } = request;
  try {
    signal.throwIfAborted();
    if (request.kind === 'exec') {
      const exitCode = await target.exec(containerId, { command, tty }, client.streams, signal);
      return { type: 'ended', exitCode };
    }
    await target.attach(containerId, { tty }, client.streams, signal);
    return { type: 'ended', exitCode: 0 };
  } catch (error) {
    // Whatever the container's side threw when the client had left, that is why.
    if (client.gone.aborted) return { type: 'failed', error: new BerthError('cancelled', 'the client has left') };
    return { type: 'failed', error };
  }
}
