import type { Duplex } from 'node:stream';

import { BerthError } from '../../base/errors.ts';
import type { StreamTimes } from './command-client.ts';
import { forwardConnection, type PortForwardDeps } from './port-forward-session.ts';
import { RST_STATUS } from './spdy/frames.ts';
import { SpdyConnection } from './spdy/spdy-connection.ts';
import type { SpdyStream } from './spdy/spdy-stream.ts';
import type { PortForwardStreams } from './stream-request.ts';

/** The protocol of port-forward over SPDY. */
export const SPDY_PORT_FORWARD_PROTOCOL = 'portforward.k8s.io';

/** Connections that are carried at a time, those included whose streams the client has given up already. */
const MAX_CONNECTIONS = 1024;
const MAX_STREAMS = 2 * MAX_CONNECTIONS;
const MAX_REQUEST_ID_CHARS = 64;

/** The two streams of one connection; the client opens them one after the other. */
interface Pair {
  readonly port: number;
  readonly timer: NodeJS.Timeout;
  data?: SpdyStream;
  error?: SpdyStream;
}

/**
 * Carries connections for a client that speaks SPDY: a data and an error stream for each, with the same `requestid`.
 * Returns why it ended when the client has left.
 */
export async function serveSpdyPortForward(
  transport: Duplex,
  request: PortForwardStreams,
  times: StreamTimes,
  deps: PortForwardDeps,
  stopping: AbortSignal,
): Promise<string> {
  const ended = new AbortController();
  const pairs = new Map<string, Pair>();
  let carried = 0;
  const connection = new SpdyConnection(transport, {
    maxStreams: MAX_STREAMS,
    idleTimeoutMs: times.idleTimeoutMs,
    probeIntervalMs: times.probeIntervalMs,
    onStream: (stream) => {
      const type = stream.headers.get('streamtype');
      const port = toPort(stream.headers.get('port'));
      if ((type !== 'data' && type !== 'error') || port === undefined) {
        stream.reset(RST_STATUS.protocolError);
        return;
      }
      const id = requestId(stream, type);
      const known = pairs.get(id);
      if (carried >= MAX_CONNECTIONS || known?.[type] || (known && known.port !== port)) {
        stream.reset(RST_STATUS.refusedStream);
        return;
      }
      const pair = known ?? {
        port,
        timer: setTimeout(() => expire(pairs, id), times.creationTimeoutMs).unref(),
      };
      pairs.set(id, pair);
      pair[type] = stream;
      stream.once('close', () => forget(pairs, id, pair));
      stream.accept();
      // The client has nothing to say on it.
      if (type === 'error') stream.resume();
      const { data, error } = pair;
      if (!data || !error) return;
      forget(pairs, id, pair);
      const { sandboxId } = request;
      carried++;
      void forwardConnection({ sandboxId, port, data, error }, deps, ended.signal).finally(() => {
        carried--;
      });
    },
  });
  const stop = (): void => connection.close('berthd is stopping');
  if (stopping.aborted) stop();
  stopping.addEventListener('abort', stop, { once: true });
  const reason = await connection.closed;
  stopping.removeEventListener('abort', stop);
  for (const { timer } of pairs.values()) clearTimeout(timer);
  ended.abort(new BerthError('cancelled', reason));
  return reason;
}

function expire(pairs: Map<string, Pair>, id: string): void {
  const pair = pairs.get(id);
  pairs.delete(id);
  pair?.error?.end('timed out waiting for the data stream');
  pair?.data?.reset(RST_STATUS.cancel);
}

// A client that gives up the first stream will hardly open the second one; nothing of it shall stay meanwhile.
function forget(pairs: Map<string, Pair>, id: string, pair: Pair): void {
  if (pairs.get(id) !== pair) return;
  clearTimeout(pair.timer);
  pairs.delete(id);
}

// Old clients send no id; their streams come in pairs, error first, with consecutive odd numbers.
function requestId(stream: SpdyStream, type: 'data' | 'error'): string {
  const given = stream.headers.get('requestid') ?? '';
  if (given !== '') return given.slice(0, MAX_REQUEST_ID_CHARS);
  return `stream ${type === 'error' ? stream.id : stream.id - 2}`;
}

function toPort(text: string | undefined): number | undefined {
  const port = /^\d{1,5}$/.test(text ?? '') ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}
