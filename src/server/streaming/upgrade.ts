import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';

import type { WebSocket } from 'ws';

import { nodeHttp } from '../../base/node-http.ts';

/** As long as peers allow a message to be; clients send pieces of some 32 KiB. */
const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;
/** How long a client that was refused may take to read why. */
const FAREWELL_MS = 5_000;
const PROTOCOL_HEADER = 'X-Stream-Protocol-Version';
const ACCEPTED_HEADER = 'X-Accepted-Stream-Protocol-Versions';

/** A request to change the protocol of its connection. */
export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  /** What came in together with the request. */
  readonly head: Buffer;
}

/** The protocols that the client asks for, in its order of preference. */
export function wantedProtocols(request: IncomingMessage, header: string): string[] {
  const value = request.headers[header] ?? '';
  return (Array.isArray(value) ? value.join(',') : value)
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}

/**
 * Chooses among the protocols of exec, attach or port-forward over SPDY, and answers the upgrade. Undefined when the
 * client was refused: with 400 if it named none, with 403 if it named none of ours, as the kubelet's library does.
 */
export function upgradeToSpdy(
  { request, socket, head }: Upgrade,
  supported: readonly string[],
): { readonly protocol: string; readonly transport: Duplex } | undefined {
  const wanted = wantedProtocols(request, PROTOCOL_HEADER.toLowerCase());
  if (wanted.length === 0) {
    refuse(socket, 400, `header ${PROTOCOL_HEADER} names no protocol`);
    return undefined;
  }
  const protocol = wanted.find((name) => supported.includes(name));
  if (protocol === undefined) {
    const said = `client supports ${wanted.join(', ')}, server supports ${supported.join(', ')}`;
    refuse(socket, 403, said, { [ACCEPTED_HEADER]: supported.join(', ') });
    return undefined;
  }
  socket.write(responseHead(101, { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', [PROTOCOL_HEADER]: protocol }));
  if (head.length > 0) socket.unshift(head);
  return { protocol, transport: socket };
}

/**
 * Chooses among WebSocket protocols and answers the upgrade. A client that asks for none gets '' if that is supported.
 * Undefined when the client was refused.
 */
export async function upgradeToWebSocket(
  { request, socket, head }: Upgrade,
  supported: readonly string[],
  closeTimeoutMs: number,
): Promise<{ readonly protocol: string; readonly socket: WebSocket } | undefined> {
  const wanted = wantedProtocols(request, 'sec-websocket-protocol');
  const protocol = (wanted.length > 0 ? wanted : ['']).find((name) => supported.includes(name));
  if (protocol === undefined) {
    refuse(socket, 403, `client supports ${wanted.join(', ')}, server supports ${supported.join(', ')}`);
    return undefined;
  }
  // Most nodes never see a WebSocket: the library is loaded with the first one.
  const { WebSocketServer } = await import('ws');
  // Of a client that has left meanwhile nothing is heard any more.
  if (socket.destroyed) return undefined;
  const options = {
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE_BYTES,
    closeTimeout: closeTimeoutMs,
  };
  const server = new WebSocketServer(options);
  // The library knows the grammar of RFC 6455, and Kubernetes' "SPDY/3.1+portforward.k8s.io" breaks it.
  delete request.headers['sec-websocket-protocol'];
  server.on('headers', (headers) => {
    if (protocol !== '') headers.push(`Sec-WebSocket-Protocol: ${protocol}`);
  });
  const { promise, resolve } = Promise.withResolvers<WebSocket | undefined>();
  server.on('wsClientError', (err) => {
    refuse(socket, 400, err.message);
    resolve(undefined);
  });
  socket.once('close', () => resolve(undefined));
  server.handleUpgrade(request, socket, head, (opened) => resolve(opened));
  const opened = await promise;
  return opened && { protocol, socket: opened };
}

/** Answers an upgrade with an error in plain text, and closes the connection. */
export function refuse(socket: Duplex, status: number, text: string, headers: Record<string, string> = {}): void {
  const body = `${text}\n`;
  const head = responseHead(status, {
    Connection: 'close',
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': String(Buffer.byteLength(body)),
    ...headers,
  });
  socket.end(head + body);
  // Read on until the client closes: a socket closed with unread bytes in it would take the answer along.
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), FAREWELL_MS).unref();
  socket.once('end', () => socket.destroy());
  socket.once('close', () => clearTimeout(timer));
}

function responseHead(status: number, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(
    ([name, value]) => `${name}: ${value.replaceAll(/[^\x20-\x7e]/g, '?')}\r\n`,
  );
  return `HTTP/1.1 ${status} ${nodeHttp().STATUS_CODES[status] ?? 'Unknown'}\r\n${lines.join('')}\r\n`;
}
