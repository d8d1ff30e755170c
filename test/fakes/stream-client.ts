/** What a person with crictl or kubectl does: exec, attach and port-forward, over SPDY or WebSocket. */

import type { Duplex, Readable, Writable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';

import { type ClientTls, SpdyClient } from './spdy-client.ts';
import { WebSocketClient } from './websocket-client.ts';

export type Transport = 'spdy' | 'websocket';

/** Which streams to open: what the RPC asked for. */
export interface WantedStreams {
  readonly stdin?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
  readonly tty?: boolean;
}

/** A Status of Kubernetes' meta/v1, as far as exec uses it. */
export interface CommandStatus {
  readonly status: string;
  readonly message?: string;
  readonly reason?: string;
  readonly details?: { readonly causes?: readonly { readonly reason?: string; readonly message?: string }[] };
}

/** A client in the middle of an exec or attach. Ask for `status` only when the outputs are being read. */
export interface CommandConnection {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** What `status` reads. */
  readonly error: Readable;
  resize(width: number, height: number): void;
  /** What the error stream says; read it at most once. */
  status(): Promise<CommandStatus>;
  /** Closes as a client does that has read everything. */
  close(): void;
  /** Is gone without a word. */
  vanish(): void;
  readonly closed: Promise<unknown>;
}

/** Connects to the URL of an Exec or Attach. */
export async function connectCommand(
  url: string,
  transport: Transport,
  wanted: WantedStreams,
  tls: ClientTls = {},
): Promise<CommandConnection> {
  return transport === 'spdy' ? await commandBySpdy(url, wanted, tls) : await commandByWebSocket(url, wanted, tls);
}

async function commandBySpdy(url: string, wanted: WantedStreams, tls: ClientTls): Promise<CommandConnection> {
  const protocols = ['v5', 'v4', 'v3', 'v2'].map((version) => `${version}.channel.k8s.io`);
  const client = await SpdyClient.connect(url, [...protocols, 'channel.k8s.io'], tls);
  const open = async (type: string): Promise<Duplex> => await client.open({ streamtype: type });
  const error = await open('error');
  const unused = error;
  const stdin = wanted.stdin ? await open('stdin') : unused;
  const stdout = wanted.stdout ? await open('stdout') : unused;
  const stderr = wanted.stderr && !wanted.tty ? await open('stderr') : unused;
  const resize = wanted.tty ? await open('resize') : unused;
  return {
    stdin,
    stdout,
    stderr,
    error,
    resize: (width, height) => void resize.write(`${JSON.stringify({ Width: width, Height: height })}\n`),
    status: async () => JSON.parse(await text(error)) as CommandStatus,
    close: () => client.close(),
    vanish: () => client.vanish(),
    closed: client.closed,
  };
}

async function commandByWebSocket(url: string, _wanted: WantedStreams, tls: ClientTls): Promise<CommandConnection> {
  const client = await WebSocketClient.connect(url, ['v5.channel.k8s.io', 'v4.channel.k8s.io'], tls);
  return {
    stdin: client.channel(0),
    stdout: client.channel(1),
    stderr: client.channel(2),
    error: client.channel(3),
    resize: (width, height) => void client.channel(4).write(JSON.stringify({ Width: width, Height: height })),
    status: async () => JSON.parse(await text(client.channel(3))) as CommandStatus,
    close: () => client.socket.close(1000),
    vanish: () => client.vanish(),
    closed: client.closed,
  };
}

/** What a command that needs no terminal printed and how it ended. */
export interface CommandResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly exitCode: number;
  readonly status: CommandStatus;
}

/** Connects, sends `stdin` and reads all there is. */
export async function runCommand(
  url: string,
  transport: Transport,
  { stdin }: { readonly stdin?: string | Buffer } = {},
  tls: ClientTls = {},
): Promise<CommandResult> {
  const wanted = { stdin: stdin !== undefined, stdout: true, stderr: true };
  const client = await connectCommand(url, transport, wanted, tls);
  if (stdin !== undefined) client.stdin.end(stdin);
  const [stdout, stderr, status] = await Promise.all([buffer(client.stdout), buffer(client.stderr), client.status()]);
  client.close();
  await client.closed;
  return { stdout, stderr, status, exitCode: exitCodeOf(status) };
}

/** The exit code that a status tells; -1 for a failure of another kind. */
export function exitCodeOf({ status, reason, details }: CommandStatus): number {
  if (status === 'Success') return 0;
  const cause = details?.causes?.find((one) => one.reason === 'ExitCode');
  return reason === 'NonZeroExitCode' && cause ? Number(cause.message) : -1;
}

/** A client of a port-forward that makes connections through it. */
export interface PortForwardConnection {
  /** A new connection to the port, and what the server says if it fails. */
  connect(port: number): Promise<{ readonly data: Duplex; readonly error: Promise<string> }>;
  close(): void;
  vanish(): void;
  readonly closed: Promise<unknown>;
}

/** Connects to the URL of a PortForward; over WebSocket, SPDY runs inside its messages. */
export async function connectPortForward(
  url: string,
  transport: Transport,
  tls: ClientTls = {},
): Promise<PortForwardConnection> {
  const client =
    transport === 'spdy'
      ? await SpdyClient.connect(url, ['portforward.k8s.io'], tls)
      : await SpdyClient.tunnel(url, tls);
  let requests = 0;
  return {
    connect: async (port) => {
      const headers = { port: String(port), requestid: String(requests++) };
      const error = await client.open({ streamtype: 'error', ...headers });
      error.end();
      const data = await client.open({ streamtype: 'data', ...headers });
      const said = text(error);
      said.catch(() => {});
      return { data, error: said };
    },
    close: () => client.close(),
    vanish: () => client.vanish(),
    closed: client.closed,
  };
}
