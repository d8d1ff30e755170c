import assert from 'node:assert/strict';
import { once } from 'node:events';
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
