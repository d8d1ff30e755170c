import type { WebSocket } from 'ws';

import type { StreamTimes } from './command-client.ts';
import { lingering } from './lingering.ts';
import { forwardConnection, type PortForwardDeps } from './port-forward-session.ts';
import type { PortForwardStreams } from './stream-request.ts';
import { type ChannelFormat, flushed, WebSocketChannels } from './websocket-channels.ts';

/** By the name that a client asks for; '' is a client that asks for none. */
export const WEBSOCKET_PORT_FORWARD_PROTOCOLS: ReadonlyMap<string, ChannelFormat> = new Map([
  ['v4.channel.k8s.io', { isBase64: false, hasClose: false }],
  ['v4.base64.channel.k8s.io', { isBase64: true, hasClose: false }],
  ['', { isBase64: false, hasClose: false }],
]);

/** SPDY inside the messages of a WebSocket: the whole of spdy-port-forward.ts over a proxy that knows no SPDY. */
export const TUNNEL_PROTOCOL = 'SPDY/3.1+portforward.k8s.io';

/** A session has one connection a port; two channels each must fit into the byte that numbers them. */
export const MAX_CHANNEL_PORTS = 127;

/**
 * Carries one connection to each of the ports that the RPC named: channel 2n is data, 2n+1 errors, and both begin with
 * the port in two bytes, the low one first. Returns why it ended.
 */
export async function serveWebSocketPortForward(
  socket: WebSocket,
  request: PortForwardStreams,
  format: ChannelFormat,
  times: StreamTimes,
  deps: PortForwardDeps,
  stopping: AbortSignal,
): Promise<string> {
  const { sandboxId, ports } = request;
  const channels = new WebSocketChannels(socket, ports.length * 2, format, times);
  const signal = AbortSignal.any([channels.gone, stopping]);
  const carried = ports.map(async (port, index) => {
    const [data, error] = [channels.channel(index * 2), channels.channel(index * 2 + 1)];
    const number = Buffer.alloc(2);
    number.writeUInt16LE(port);
    data.write(number);
    error.write(number);
    error.resume();
    // The client is not told that the pod has ended its side, and has no way to end its own.
    data.once('finish', () => data.endInput());
    await forwardConnection({ sandboxId, port, data, error }, deps, signal);
    await Promise.all([flushed(data), flushed(error)]);
  });
  await Promise.all(carried);
  if (channels.gone.aborted) return 'the client has left';
  channels.close();
  await lingering(channels.closed, times.lingerMs, stopping);
  channels.terminate();
  return stopping.aborted ? 'berthd is stopping' : 'all connections have ended';
}
