import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';

import { RuntimeServiceService, VersionRequest, type VersionResponse } from '../../proto/gen/cri/api.ts';
import { BerthError, invalid, wrap } from '../base/errors.ts';
import { type LogFields, silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { GrpcServer } from './grpc-server.ts';
import { RpcBoundary } from './unary.ts';

suite('the gRPC boundary', () => {
  let dir: string;
  let path: string;
  let server: GrpcServer;
  let client: Client;
  let failure: unknown;
  const counted: string[] = [];
  const logged: string[] = [];

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'berth-grpc-'));
    path = join(dir, 'sub', 'test.sock');
    const meter = {
      ...silentMeter,
      rpc: (method: string, outcome: string) => void counted.push(`${method} ${outcome}`),
    };
    const log = {
      ...silentLogger,
      debug: (_fields: LogFields, message: string) => void logged.push(`debug ${message}`),
      warn: (_fields: LogFields, message: string) => void logged.push(`warn ${message}`),
    };
    const boundary = new RpcBoundary(log, meter);
    const version = boundary.unary<VersionRequest, VersionResponse>('Version', () => {
      if (failure !== undefined) throw failure;
      return { version: '0.1.0', runtimeName: 'berth', runtimeVersion: '1', runtimeApiVersion: 'v1' };
    });
    server = new GrpcServer([{ definition: RuntimeServiceService, handlers: { version } }]);
    await server.listen(path);
    client = new Client(`unix://${path}`, credentials.createInsecure());
  });
  after(async () => {
    client.close();
    await server.close();
    rmSync(dir, { recursive: true });
  });

  async function call(method: keyof typeof RuntimeServiceService): Promise<ServiceError | VersionResponse> {
    const { promise, resolve } = Promise.withResolvers<ServiceError | VersionResponse>();
    client.makeUnaryRequest(
      RuntimeServiceService[method].path,
      RuntimeServiceService.version.requestSerialize,
      RuntimeServiceService.version.responseDeserialize,
      VersionRequest.create(),
      new Metadata(),
      (err, response) => resolve(err ?? response ?? (new Error('empty') as ServiceError)),
    );
    return await promise;
  }

  test('an answer comes back and is counted', async () => {
    failure = undefined;
    assert.deepEqual(await call('version'), {
      version: '0.1.0',
      runtimeName: 'berth',
      runtimeVersion: '1',
      runtimeApiVersion: 'v1',
    });
    assert.equal(counted.at(-1), 'Version ok');
  });

  for (const [thrown, code, details] of [
    [invalid('config.metadata', 'is missing'), status.INVALID_ARGUMENT, 'config.metadata: is missing'],
    [wrap('run sandbox', new BerthError('unavailable', 'no network')), status.UNAVAILABLE, 'run sandbox: no network'],
    [new BerthError('notFound', 'sandbox x: no such sandbox'), status.NOT_FOUND, 'sandbox x: no such sandbox'],
    [new TypeError('a bug'), status.INTERNAL, 'a bug'],
  ] as const) {
    test(`${thrown.message} becomes ${status[code]}, with the whole chain as text`, async () => {
      failure = thrown;
      const err = (await call('version')) as ServiceError;
      assert.equal(err.code, code);
      assert.equal(err.details, details);
    });
  }

  test('that something asked for is not there is no warning, another failure is', async () => {
    logged.length = 0;
    failure = new BerthError('notFound', 'container x: no such container');
    await call('version');
    failure = new BerthError('unavailable', 'no network');
    await call('version');
    assert.deepEqual(logged, ['debug rpc failed', 'warn rpc failed']);
  });

  test('a text longer than a header is cut, not lost', async () => {
    failure = invalid('config', `${'x'.repeat(100_000)} is too long`);
    const err = (await call('version')) as ServiceError;
    assert.equal(err.code, status.INVALID_ARGUMENT);
    assert.match(err.details, /^config: x{2040} \.\.\. \(cut\) \.\.\. x{2036} is too long$/);
  });

  test('a text that is not well-formed is mended, also where it is cut', async () => {
    failure = new BerthError('internal', 'registry says \ud800');
    assert.equal(((await call('version')) as ServiceError).details, 'registry says \ufffd');
    failure = new BerthError('internal', `${'x'.repeat(2047)}\u{1f4a5}${'y'.repeat(5000)}`);
    assert.match(((await call('version')) as ServiceError).details, /^x{2047}\ufffd \.\.\. \(cut\) \.\.\. y{2048}$/);
  });

  test('a method without a handler is Unimplemented', async () => {
    assert.equal(((await call('attach')) as ServiceError).code, status.UNIMPLEMENTED);
  });

  test('the socket is for root and its group', () => {
    assert.equal(statSync(path).mode & 0o777, 0o660);
  });

  test('where others could put a socket in its place, none is made', async () => {
    const folder = mkdtempSync(join(dir, 'open-'));
    const refused = async (why: RegExp): Promise<void> => {
      await assert.rejects(new GrpcServer([]).listen(join(folder, 'x.sock')), { kind: 'precondition', message: why });
      assert.deepEqual(readdirSync(folder), []);
    };
    chmodSync(folder, 0o777);
    await refused(/others than root may write there \(mode 777\).*chown root:root .* && chmod go-w/);
    if (process.getuid?.() === 0) {
      chmodSync(folder, 0o755);
      chownSync(folder, 4711, 0);
      await refused(/user 4711 owns it/);
      chownSync(folder, 0, 4711);
      chmodSync(folder, 0o775);
      await refused(/others than root may write/);
    }
    // As /tmp is: nobody can take away what is another's.
    chmodSync(folder, 0o1777);
    const server = new GrpcServer([]);
    await server.listen(join(folder, 'x.sock'));
    const { mode, uid, gid } = statSync(join(folder, 'x.sock'));
    assert.deepEqual([mode & 0o777, uid, gid], [0o660, process.geteuid?.(), process.getegid?.()]);
    await server.close();
  });

  test('a socket that answers is not taken away; one that does not is', async () => {
    const busy = new GrpcServer([]);
    await assert.rejects(busy.listen(path), { kind: 'precondition', message: /another program answers there/ });
    const stale = join(dir, 'stale.sock');
    const { promise, resolve } = Promise.withResolvers<void>();
    const holder = createServer().listen(stale, resolve);
    await promise;
    // Closing by hand would unlink it; a process that was killed does not.
    rmSync(stale);
    holder.close();
    writeFileSync(stale, '');
    await assert.rejects(busy.listen(stale), { kind: 'precondition', message: /is no socket/ });
  });
});
