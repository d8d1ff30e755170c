import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { FakeRegistry, fakeBlob } from '../../test/fakes/registry.ts';
import { withDeadline } from '../base/deadline.ts';
import { BerthError, describe as describeError, findCause, isKind } from '../base/errors.ts';
import { HttpTransport, readCapped } from './http-transport.ts';
import { RegistryError } from './registry-error.ts';

const timeouts = { connectMs: 1000, headersMs: 1000, progressMs: 1000 };

describe('a request that cannot be made', () => {
  let registry: FakeRegistry;
  let transport: HttpTransport;
  let document: URL;
  beforeEach(async () => {
    registry = await FakeRegistry.start();
    registry.addDocument('x', fakeBlob(Buffer.from('here'), 'text/plain'), 'y');
    document = new URL(`http://${registry.host}/v2/x/manifests/y`);
    transport = new HttpTransport(timeouts);
  });
  afterEach(async () => {
    await transport.close();
    await registry.close();
  });

  const get = async (headers: Readonly<Record<string, string>>, url = document): Promise<string> => {
    using signal = withDeadline('a request of a test', 5000);
    const response = await transport.send({ method: 'GET', url, headers, insecure: false }, signal);
    return String(await readCapped(response, 100, 'answer'));
  };
  const bad: [string, Readonly<Record<string, string>>][] = [
    ['a line break', { authorization: 'Bearer a\r\nhost: evil' }],
    ['a NUL byte', { authorization: 'a\0b' }],
    ['a character that is no byte', { authorization: 'Bearer \u{1f600}' }],
    ['a name that is none', { 'a b': 'c' }],
    ['a length that is not its own', { 'content-length': '5' }],
    ['a connection of its own kind', { connection: 'upgrade' }],
    ['a transfer that it does not do', { 'transfer-encoding': 'chunked' }],
    ['an expectation', { expect: '100-continue' }],
  ];
  for (const [what, headers] of bad) {
    it(`is refused at once, and holds up none that follows: ${what}`, async () => {
      for (let round = 0; round < 3; round += 1) {
        // Beside others that are at work on the same connections, before them and after them.
        const good = [get({}), get({})];
        const failed = get(headers).then(
          (text) => text,
          (err: unknown) => err,
        );
        good.push(get({}), get({}));
        const outcome = await failed;
        assert.ok(isKind(outcome, 'precondition'), String(outcome));
        assert.deepEqual(await Promise.all(good), Array(4).fill('here'));
        assert.equal(await get({}), 'here');
      }
    });
  }

  it('is refused before a connection is chosen, so that the first one of a host holds up none', async () => {
    const url = new URL(String(document).replace('http:', 'https:'));
    for (const [, headers] of bad) {
      await assert.rejects(
        get(headers, url),
        (err: unknown) => isKind(err, 'precondition') && !/Bearer/.test(describeError(err)),
      );
      // There is no TLS, which shows that it was tried.
      await assert.rejects(get({}, url), (err: unknown) => findCause(err, RegistryError)?.plainHttp === 'likely');
    }
  });

  it('ends with its signal also while it waits for a connection', async () => {
    const accepted: Socket[] = [];
    const silent = createServer((socket) => void accepted.push(socket));
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const patient = new HttpTransport({ ...timeouts, connectMs: 60_000 });
    const url = new URL(`https://127.0.0.1:${(silent.address() as AddressInfo).port}/`);
    try {
      const request = { method: 'GET', url, headers: {}, insecure: false } as const;
      const [first, second] = [new AbortController(), new AbortController()];
      const asked = [patient.send(request, first.signal), patient.send(request, second.signal)];
      setTimeout(() => second.abort(new BerthError('cancelled', 'the second')), 50);
      await assert.rejects(asked[1] ?? assert.fail(), /the second/);
      first.abort(new BerthError('cancelled', 'the first'));
      await assert.rejects(asked[0] ?? assert.fail(), /the first/);
    } finally {
      await patient.close();
      silent.close();
      // A connection that is still being made ends when its time is up: this process would wait for that.
      for (const socket of accepted) socket.destroy();
    }
  });

  it('is refused at once also where the path is none', async () => {
    const url = new URL(document);
    Object.defineProperty(url, 'pathname', { value: '/a b\r\n' });
    await assert.rejects(get({}, url), BerthError);
    assert.equal(await get({}), 'here');
  });
});
