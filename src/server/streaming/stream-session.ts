import { describe } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import type { StreamTimes } from './command-client.ts';
import { serveCommand } from './command-session.ts';
import type { CommandOutcome } from './command-status.ts';
import { openSpdyCommand, SPDY_COMMAND_PROTOCOLS } from './spdy-command.ts';
import { SPDY_PORT_FORWARD_PROTOCOL, serveSpdyPortForward } from './spdy-port-forward.ts';
import type { CommandStreams, PortForwardStreams, StreamRequest } from './stream-request.ts';
import { refuse, type Upgrade, upgradeToSpdy, upgradeToWebSocket } from './upgrade.ts';
import { openWebSocketCommand, WEBSOCKET_COMMAND_PROTOCOLS } from './websocket-command.ts';
import {
  MAX_CHANNEL_PORTS,
  serveWebSocketPortForward,
  TUNNEL_PROTOCOL,
  WEBSOCKET_PORT_FORWARD_PROTOCOLS,
} from './websocket-port-forward.ts';

/** What sessions need of the pods, and of the daemon. */
export interface StreamSessionDeps {
  readonly target: Pick<PodStreams, 'exec' | 'attach' | 'portForward'>;
  readonly log: Logger;
  readonly times: StreamTimes;
}

/** What the log says about a session that has ended. */
export type StreamSessionFacts = Readonly<Record<string, unknown>>;

/**
 * Carries out what was granted for the client that asks for an upgrade, whichever protocol it speaks, until its session
 * is over; `stopping` ends it early. Returns undefined for a client that was refused.
 */
export async function serveStream(
  granted: StreamRequest,
  upgrade: Upgrade,
  deps: StreamSessionDeps,
  stopping: AbortSignal,
): Promise<StreamSessionFacts | undefined> {
  const wanted = (upgrade.request.headers.upgrade ?? '').toLowerCase();
  const session = { upgrade, deps, stopping };
  if (wanted === 'websocket') {
    return granted.kind === 'portforward'
      ? await forwardByWebSocket(granted, session)
      : await runByWebSocket(granted, session);
  }
  if (wanted === 'spdy/3.1')
    return granted.kind === 'portforward' ? await forwardBySpdy(granted, session) : await runBySpdy(granted, session);
  refuse(upgrade.socket, 400, 'ask for an upgrade to SPDY/3.1 or websocket');
  return undefined;
}

interface Session {
  readonly upgrade: Upgrade;
  readonly deps: StreamSessionDeps;
  readonly stopping: AbortSignal;
}

type Served = Promise<StreamSessionFacts | undefined>;

async function runBySpdy(granted: CommandStreams, { upgrade, deps, stopping }: Session): Served {
  const agreed = upgradeToSpdy(upgrade, SPDY_COMMAND_PROTOCOLS);
  if (!agreed) return undefined;
  const { protocol, transport } = agreed;
  const client = await openSpdyCommand(transport, granted, protocol, deps.times);
  const outcome = await serveCommand(granted, client, deps.target, deps.times.lingerMs, stopping);
  return { protocol: `SPDY ${protocol}`, ...outcomeFacts(outcome) };
}

async function runByWebSocket(granted: CommandStreams, { upgrade, deps, stopping }: Session): Served {
  const { lingerMs } = deps.times;
  const agreed = await upgradeToWebSocket(upgrade, [...WEBSOCKET_COMMAND_PROTOCOLS.keys()], lingerMs);
  const format = agreed && WEBSOCKET_COMMAND_PROTOCOLS.get(agreed.protocol);
  if (!format) return undefined;
  const client = openWebSocketCommand(agreed.socket, granted, format, deps.times);
  const outcome = await serveCommand(granted, client, deps.target, lingerMs, stopping);
  return { protocol: `WebSocket ${agreed.protocol}`, ...outcomeFacts(outcome) };
}

async function forwardBySpdy(granted: PortForwardStreams, { upgrade, deps, stopping }: Session): Served {
  const agreed = upgradeToSpdy(upgrade, [SPDY_PORT_FORWARD_PROTOCOL]);
  if (!agreed) return undefined;
  const { protocol, transport } = agreed;
  const reason = await serveSpdyPortForward(transport, granted, deps.times, deps, stopping);
  return { protocol: `SPDY ${protocol}`, reason };
}

async function forwardByWebSocket(granted: PortForwardStreams, { upgrade, deps, stopping }: Session): Served {
  const { times } = deps;
  const hasPorts = granted.ports.length > 0 && granted.ports.length <= MAX_CHANNEL_PORTS;
  const supported = [TUNNEL_PROTOCOL, ...(hasPorts ? WEBSOCKET_PORT_FORWARD_PROTOCOLS.keys() : [])];
  // Before the upgrade: what the client says at once must find a listener.
  const { createWebSocketStream } = await import('ws');
  const agreed = await upgradeToWebSocket(upgrade, supported, times.lingerMs);
  if (!agreed) return undefined;
  const { protocol, socket } = agreed;
  const format = WEBSOCKET_PORT_FORWARD_PROTOCOLS.get(protocol);
  if (format) {
    const reason = await serveWebSocketPortForward(socket, granted, format, times, deps, stopping);
    return { protocol: `WebSocket ${protocol}`, reason };
  }
  const transport = createWebSocketStream(socket);
  const reason = await serveSpdyPortForward(transport, granted, times, deps, stopping);
  return { protocol: `WebSocket ${protocol}`, reason };
}

function outcomeFacts(outcome: CommandOutcome): StreamSessionFacts {
  return outcome.type === 'ended' ? { exitCode: outcome.exitCode } : { err: describe(outcome.error) };
}
