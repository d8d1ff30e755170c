import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { FakeRegistry, fakeBlob } from '../../test/fakes/registry.ts';
import { describe as chain, isKind } from '../base/errors.ts';
import { HttpTransport, readCapped } from './http-transport.ts';
import { isLocalHost } from './local-hosts.ts';
import { TokenSource } from './token-source.ts';

const never = new AbortController().signal;
const timeouts = { connectMs: 1000, headersMs: 1000, progressMs: 300 };

describe('what hostile registries answer', () => {
  let registry: FakeRegistry;
  let transport: HttpTransport;
  const outside = 'localhost';

  beforeEach(async () => {
    registry = await FakeRegistry.start();
    // The fake is on loopback; under this name it stands for a registry that is not.
    transport = new HttpTransport(timeouts, async (hostname) => hostname !== outside && (await isLocalHost(hostname)));
  });
  afterEach(async () => {
    await transport.close();
    await registry.close();
  });

  const get = async (answer: (res: ServerResponse) => void): Promise<Buffer> => {
    registry.misbehave = (req, res) => {
      if (req.url !== '/v2/') return false;
      answer(res);
      return true;
    };
    const url = new URL(`http://${outside}:${registry.host.split(':')[1]}/v2/`);
    const response = await transport.send({ method: 'GET', url, headers: {}, insecure: false }, never);
    return await readCapped(response, 1_000_000, 'answer');
  };
  const redirect = (location: string) => (res: ServerResponse) => void res.writeHead(307, { location }).end();

  const refused: [string, (res: ServerResponse) => void, RegExp][] = [
    ['a redirect to a file', redirect('file:///etc/shadow'), /redirect to something that is no URL/],
    ['a redirect to data', redirect('data:text/plain,x'), /redirect to something that is no URL/],
    ['redirects in a loop', redirect('/v2/'), /more than 5 redirects/],
    ['a redirect to loopback', redirect('http://127.0.0.1:1/'), /redirect to 127\.0\.0\.1:1, which is this machine/],
    ['one in other words', redirect('http://2130706433:1/'), /which is this machine/],
    ['one of version 6', redirect('http://[::1]:1/'), /redirect to \[::1\]:1, which is this machine/],
    ['one mapped to version 6', redirect('http://[::ffff:127.0.0.1]:1/'), /which is this machine/],
    ['one to any address', redirect('http://0.0.0.0:1/'), /which is this machine/],
    ['one to the metadata of a cloud', redirect('http://169.254.169.254/latest'), /which is this machine or its link/],
    ['an answer of 100 MB', (res) => pour(res, 100_000_000), /larger than 1000000 bytes/],
    ['an answer drop by drop', drip, /only \d+ bytes of the answer came in \d+ ms/],
    ['an answer that stops', (res) => void res.writeHead(200).write('x'), /stopped coming/],
  ];
  for (const [what, answer, words] of refused) {
    it(`refuses ${what}`, async () => {
      await assert.rejects(get(answer), (err: unknown) => words.test(chain(err)) || assert.fail(chain(err)));
    });
  }

  it('asks no token server of this machine for a registry elsewhere', async () => {
    const tokens = new TokenSource(transport, () => 0);
    const port = registry.host.split(':')[1];
    const ask = async (realm: string, host: string): Promise<string> =>
      await tokens.get({ realm, host, service: '', scope: 'x', credential: undefined, insecure: true }, never);
    for (const realm of [`http://127.0.0.1:${port}/token`, `https://[::1]:${port}/`, 'http://169.254.169.254/token']) {
      await assert.rejects(
        ask(realm, `${outside}:${port}`),
        (err: unknown) => isKind(err, 'permission') && /token server at .*, which is this machine/.test(chain(err)),
      );
    }
    assert.deepEqual(registry.seen, []);
    registry.auth = { kind: 'bearer', issue: () => 'good' };
    assert.equal(await ask(`http://${registry.host}/token`, registry.host), 'good');
    assert.equal(await ask(`http://${outside}:${port}/token?own`, `${outside}:${port}`), 'good');
  });

  it('follows redirects on loopback for a registry there', async () => {
    await using other = await FakeRegistry.start();
    const blob = fakeBlob(Buffer.from('here'), 'text/plain');
    other.addDocument('x', blob, 'y');
    const here = new HttpTransport(timeouts);
    registry.misbehave = (_req, res) => {
      redirect(`http://${other.host}/v2/x/manifests/y`)(res);
      return true;
    };
    const url = new URL(`http://${registry.host}/v2/`);
    const response = await here.send({ method: 'GET', url, headers: {}, insecure: false }, never);
    assert.equal(String(await readCapped(response, 100, 'answer')), 'here');
    await here.close();
  });

  it('waits for an answer that is slow but comes on', async () => {
    const body = await get((res) => {
      let left = 8;
      const timer = setInterval(() => {
        left -= 1;
        res.write(Buffer.alloc(5000, 'x'));
        if (left > 0) return;
        clearInterval(timer);
        res.end();
      }, 100);
    });
    assert.equal(body.length, 40_000);
  });
});

function drip(res: ServerResponse): void {
  res.writeHead(200);
  const timer = setInterval(() => void res.write('x'), 20);
  res.on('close', () => clearInterval(timer));
}

function pour(res: ServerResponse, bytes: number): void {
  const part = Buffer.alloc(1_000_000);
  let left = bytes;
  const more = (): void => {
    while (left > 0 && !res.destroyed) {
      left -= part.length;
      if (!res.write(part)) return void res.once('drain', more);
    }
    res.end();
  };
  more();
}
