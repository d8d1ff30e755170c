import assert from 'node:assert/strict';
import { once } from 'node:events';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { test } from 'node:test';

import { upgradeToWebSocket } from './upgrade.ts';

test('a client that has left before its upgrade was answered is waited for no longer', async () => {
  const socket = new Socket();
  const request = new IncomingMessage(socket);
  request.method = 'GET';
  Object.assign(request.headers, {
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    'sec-websocket-protocol': 'v5.channel.k8s.io',
  });
  socket.destroy();
  await once(socket, 'close');
  const upgrade = { request, socket, head: Buffer.alloc(0) };
  assert.equal(await upgradeToWebSocket(upgrade, ['v5.channel.k8s.io'], 1000), undefined);
});
