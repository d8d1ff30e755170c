import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, Socket } from 'node:net';
import { test } from 'node:test';

import { isPortBound } from './bound-port.ts';

test('a TCP port is bound while somebody listens on it, also on another address', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  assert.equal(isPortBound('tcp', '127.0.0.1', port), true);
  assert.equal(isPortBound('tcp', '0.0.0.0', port), true);
  assert.equal(isPortBound('tcp', '127.0.0.2', port), false);
  assert.equal(isPortBound('tcp', '::', port), false);
  assert.equal(isPortBound('udp', '127.0.0.1', port), false);
  // A connection that is over lingers for a minute, and is in nobody's way.
  const accepted = once(server, 'connection');
  const client = connect(port, '127.0.0.1');
  const [socket]: unknown[] = await accepted;
  assert.ok(socket instanceof Socket);
  socket.end();
  client.resume();
  client.on('end', () => client.end());
  await once(client, 'close');
  server.close();
  await once(server, 'close');
  assert.equal(isPortBound('tcp', '127.0.0.1', port), false);
});

test('a UDP port is bound while a socket has it', async () => {
  const socket = createSocket('udp4');
  socket.bind(0, '0.0.0.0');
  await once(socket, 'listening');
  const { port } = socket.address();
  assert.equal(isPortBound('udp', '0.0.0.0', port), true);
  assert.equal(isPortBound('udp', '127.0.0.1', port), true);
  assert.equal(isPortBound('tcp', '0.0.0.0', port), false);
  socket.close();
  await once(socket, 'close');
  assert.equal(isPortBound('udp', '0.0.0.0', port), false);
});

test('a port of an address that this host does not have is not bound', () => {
  assert.equal(isPortBound('tcp', '192.0.2.1', 80), false);
});
