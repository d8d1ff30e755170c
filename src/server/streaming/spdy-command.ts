import type { Duplex } from 'node:stream';

import { BerthError } from '../../base/errors.ts';
import type { CommandClient, StreamTimes } from './command-client.ts';
import { type CommandOutcome, statusJson, statusText } from './command-status.ts';
import { lingering } from './lingering.ts';
import { RST_STATUS } from './spdy/frames.ts';
import { SpdyConnection } from './spdy/spdy-connection.ts';
import type { SpdyStream } from './spdy/spdy-stream.ts';
import type { CommandStreams } from './stream-request.ts';
import { TerminalSizes } from './terminal-sizes.ts';

/** The protocols of exec and attach over SPDY, the best first: v3 brought resize, v4 the exit code. */
export const SPDY_COMMAND_PROTOCOLS = [
  'v4.channel.k8s.io',
  'v3.channel.k8s.io',
  'v2.channel.k8s.io',
  'channel.k8s.io',
] as const;

type StreamType = 'error' | 'stdin' | 'stdout' | 'stderr' | 'resize';

const STREAM_TYPES: readonly string[] = ['error', 'stdin', 'stdout', 'stderr', 'resize'] satisfies StreamType[];
/** Five are opened; the rest is for a client that opens one again. */
const MAX_STREAMS = 16;

/**
 * Takes up an exec or attach with a client that speaks SPDY: waits until it has opened its streams. Throws `deadline` if
 * it does not, `cancelled` if it leaves; the connection is over then.
 */
export async function openSpdyCommand(
  transport: Duplex,
  request: CommandStreams,
  protocol: string,
  times: StreamTimes,
): Promise<CommandClient> {
  const streams = new Map<StreamType, SpdyStream>();
  const expected = expectedStreams(request, protocol);
  const sizes = new TerminalSizes();
  const complete = Promise.withResolvers<void>();
  const connection = new SpdyConnection(transport, {
    maxStreams: MAX_STREAMS,
    idleTimeoutMs: times.idleTimeoutMs,
    probeIntervalMs: times.probeIntervalMs,
    onStream: (stream) => {
      const type = stream.headers.get('streamtype') ?? '';
      if (!isStreamType(type) || streams.has(type)) {
        stream.reset(RST_STATUS.refusedStream);
        return;
      }
      stream.accept();
      streams.set(type, stream);
      if (type === 'resize') stream.on('data', (bytes: Buffer) => sizes.feed(bytes));
      // Nothing is meant to come in on the others; if it does, it must not stop the rest.
      else if (type !== 'stdin' || !request.stdin) stream.resume();
      if (expected.every((wanted) => streams.has(wanted))) complete.resolve();
    },
  });
  const gone = new AbortController();
  connection.closed.then((reason) => gone.abort(new BerthError('cancelled', reason))).catch(() => {});
  await opened(complete.promise, gone.signal, times.creationTimeoutMs).catch((err: unknown) => {
    const outcome: CommandOutcome = { type: 'failed', error: err };
    streams.get('error')?.end(statusOf(outcome, protocol));
    connection.close('not all streams were opened');
    throw err;
  });
  const [stdin, stdout, stderr] = [
    request.stdin ? streams.get('stdin') : undefined,
    request.stdout ? streams.get('stdout') : undefined,
    request.stderr ? streams.get('stderr') : undefined,
  ];
  return {
    streams: {
      ...(stdin ? { stdin } : {}),
      ...(stdout ? { stdout } : {}),
      ...(stderr ? { stderr } : {}),
      onResize: (listener) => sizes.onResize(listener),
    },
    gone: gone.signal,
    finish: (outcome, lingerMs, stopping) =>
      finish(connection, streams, statusOf(outcome, protocol), lingerMs, stopping),
  };
}

function expectedStreams(request: CommandStreams, protocol: string): StreamType[] {
  const hasResize = request.tty && (protocol.startsWith('v4') || protocol.startsWith('v3'));
  return [
    'error',
    ...(request.stdin ? (['stdin'] as const) : []),
    ...(request.stdout ? (['stdout'] as const) : []),
    ...(request.stderr ? (['stderr'] as const) : []),
    ...(hasResize ? (['resize'] as const) : []),
  ];
}

function statusOf(outcome: CommandOutcome, protocol: string): string {
  return protocol.startsWith('v4') ? statusJson(outcome) : statusText(outcome);
}

async function opened(complete: Promise<void>, gone: AbortSignal, timeoutMs: number): Promise<void> {
  const { promise: failed, reject } = Promise.withResolvers<never>();
  const onGone = (): void => reject(gone.reason);
  gone.addEventListener('abort', onGone, { once: true });
  const timer = setTimeout(
    () => reject(new BerthError('deadline', `the client did not open its streams within ${timeoutMs} ms`)),
    timeoutMs,
  );
  try {
    await Promise.race([complete, failed]);
  } finally {
    clearTimeout(timer);
    gone.removeEventListener('abort', onGone);
  }
}

async function finish(
  connection: SpdyConnection,
  streams: ReadonlyMap<StreamType, SpdyStream>,
  status: string,
  lingerMs: number,
  stopping: AbortSignal,
): Promise<void> {
  for (const type of ['stdin', 'resize'] as const) streams.get(type)?.reset(RST_STATUS.cancel);
  streams.get('error')?.end(status);
  for (const type of ['stdout', 'stderr'] as const) {
    const stream = streams.get(type);
    if (stream && !stream.writableEnded) stream.end();
  }
  await lingering(connection.closed, lingerMs, stopping);
  connection.close('the session is over');
}

function isStreamType(type: string): type is StreamType {
  return STREAM_TYPES.includes(type);
}
