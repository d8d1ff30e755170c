import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { duplexPair } from 'node:stream';
import { test } from 'node:test';

import { PortForwards } from './port-forward.ts';

test('a client that leaves while it is connected to nothing yet is waited for no longer', async () => {
  const asked = Promise.withResolvers<void>();
  const forwards = new PortForwards({
    async openSocket(_request, signal) {
      asked.resolve();
      await once(signal, 'abort');
      throw signal.reason;
    },
  });
  const [client] = duplexPair();
  client.on('error', () => {});
  const forwarded = forwards.forward({ sandboxId: 's', netns: '/no', port: 80 }, client, new AbortController().signal);
  await asked.promise;
  client.destroy();
  await assert.rejects(forwarded, { kind: 'cancelled', message: /client of port 80 of sandbox s left/ });
});

test('a break while an end is on its way to the program resets its connection, and leaves no socket', async () => {
  await using server = createServer();
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const before = countSockets();
  const forwards = new PortForwards({
    openSocket: async () => assert.fail('the host needs no namespace'),
  });
  const [far, client] = duplexPair();
  const forwarded = forwards.forward({ sandboxId: 's', netns: undefined, port }, client, new AbortController().signal);
  const [program] = await accepted;
  program.resume();
  const problem = new Promise<string | undefined>((resolve) => {
    program.once('error', (err: NodeJS.ErrnoException) => resolve(err.code)).once('close', () => resolve(undefined));
  });
  // As when both come in one piece: its break is here before Node's event loop has told the program of its end.
  client.once('end', () => process.nextTick(() => client.destroy(new Error('gone'))));
  far.end();
  await assert.rejects(forwarded, { kind: 'cancelled', message: /client of port/ });
  assert.equal(await problem, 'ECONNRESET');
  assert.equal(countSockets(), before);
});

function countSockets(): number {
  const targets = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // The folder's own, by now.
    }
  });
  return targets.filter((target) => target.startsWith('socket:')).length;
}
