import type { WebSocket } from 'ws';

import type { CommandClient, StreamTimes } from './command-client.ts';
import { statusJson, statusText } from './command-status.ts';
import { lingering } from './lingering.ts';
import type { CommandStreams } from './stream-request.ts';
import { TerminalSizes } from './terminal-sizes.ts';
import { type ChannelFormat, flushed, WebSocketChannels } from './websocket-channels.ts';

/** How a WebSocket protocol of exec and attach differs from the others. */
interface CommandProtocol extends ChannelFormat {
  /** Outcomes are told as JSON, with the exit code. */
  readonly hasStatusJson: boolean;
}

/** By the name that a client asks for; '' is a client that asks for none. */
export const WEBSOCKET_COMMAND_PROTOCOLS: ReadonlyMap<string, CommandProtocol> = new Map([
  ['v5.channel.k8s.io', { isBase64: false, hasClose: true, hasStatusJson: true }],
  ['v4.channel.k8s.io', { isBase64: false, hasClose: false, hasStatusJson: true }],
  ['v4.base64.channel.k8s.io', { isBase64: true, hasClose: false, hasStatusJson: true }],
  ['channel.k8s.io', { isBase64: false, hasClose: false, hasStatusJson: false }],
  ['base64.channel.k8s.io', { isBase64: true, hasClose: false, hasStatusJson: false }],
  ['', { isBase64: false, hasClose: false, hasStatusJson: false }],
]);

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;
const CHANNELS = 5;

/** Takes up an exec or attach with a client that speaks WebSocket. Its channels are there at once. */
export function openWebSocketCommand(
  socket: WebSocket,
  request: CommandStreams,
  protocol: CommandProtocol,
  times: StreamTimes,
): CommandClient {
  const channels = new WebSocketChannels(socket, CHANNELS, protocol, times);
  const sizes = new TerminalSizes();
  channels.channel(RESIZE).on('data', (bytes: Buffer) => sizes.feed(bytes));
  // Nothing is meant to come in on the others; if it does, it must not stop the rest.
  for (const number of [STDOUT, STDERR, ERROR, ...(request.stdin ? [] : [STDIN])]) channels.channel(number).resume();
  channels.greet(firstOutput(request));
  return {
    streams: {
      ...(request.stdin ? { stdin: channels.channel(STDIN) } : {}),
      ...(request.stdout ? { stdout: channels.channel(STDOUT) } : {}),
      ...(request.stderr ? { stderr: channels.channel(STDERR) } : {}),
      onResize: (listener) => sizes.onResize(listener),
    },
    gone: channels.gone,
    async finish(outcome, lingerMs, stopping) {
      for (const number of [STDIN, RESIZE]) channels.channel(number).destroy();
      const status = protocol.hasStatusJson ? statusJson(outcome) : statusText(outcome);
      const sent = (async () => {
        await Promise.all([STDOUT, STDERR].map((number) => flushed(channels.channel(number))));
        if (status !== '') channels.channel(ERROR).end(status);
        await flushed(channels.channel(ERROR));
        channels.close();
        await channels.closed;
      })();
      await lingering(sent, lingerMs, stopping);
      channels.terminate();
    },
  };
}

function firstOutput(request: CommandStreams): number {
  if (request.stdout) return STDOUT;
  return request.stderr ? STDERR : ERROR;
}
