import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe as suite, test } from 'node:test';

import {
  type CallOptions,
  Client,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js';

import { ContainerEventResponse, GetEventsRequest, RuntimeServiceService } from '../../proto/gen/cri/api.ts';
import { BerthError } from '../base/errors.ts';
import { type LogFields, type Logger, silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { GrpcServer } from './grpc-server.ts';
import { RpcBoundary, type StreamHandler } from './unary.ts';

type Events = ClientReadableStream<ContainerEventResponse>;

function event(containerId: string): ContainerEventResponse {
  return ContainerEventResponse.fromPartial({ containerId });
}

suite('a stream from the server', () => {
  let dir: string;
  let server: GrpcServer;
  let client: Client;
  let handler: StreamHandler<GetEventsRequest, ContainerEventResponse>;
  let counted = Promise.withResolvers<string>();
  const lines: { level: string; fields: LogFields }[] = [];

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'berth-stream-'));
    const log: Logger = {
      ...silentLogger,
      info: (fields) => void lines.push({ level: 'info', fields }),
      warn: (fields) => void lines.push({ level: 'warn', fields }),
      error: (fields) => void lines.push({ level: 'error', fields }),
    };
    const meter = { ...silentMeter, rpc: (method: string, how: string) => counted.resolve(`${method} ${how}`) };
    const boundary = new RpcBoundary(log, meter);
    const getContainerEvents = boundary.serverStream<GetEventsRequest, ContainerEventResponse>(
      'GetContainerEvents',
      (request, call) => handler(request, call),
    );
    server = new GrpcServer([{ definition: RuntimeServiceService, handlers: { getContainerEvents } }]);
    await server.listen(join(dir, 'test.sock'));
    client = new Client(`unix://${join(dir, 'test.sock')}`, credentials.createInsecure());
  });
  beforeEach(() => {
    counted = Promise.withResolvers();
    lines.length = 0;
  });
  after(async () => {
    client.close();
    await server.close();
    rmSync(dir, { recursive: true });
  });

  function open(options: CallOptions = {}): Events {
    const { path, requestSerialize, responseDeserialize } = RuntimeServiceService.getContainerEvents;
    return client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      GetEventsRequest.create(),
      new Metadata(),
      options,
    );
  }

  async function collect(call: Events): Promise<{ ids: string[]; code: status; details: string }> {
    const ids: string[] = [];
    try {
      for await (const { containerId } of call as AsyncIterable<ContainerEventResponse>) ids.push(containerId);
      return { ids, code: status.OK, details: '' };
    } catch (err) {
      const { code, details } = err as ServiceError;
      return { ids, code, details };
    }
  }

  test('gives every message, in order, and ends', async () => {
    handler = async function* () {
      for (let i = 0; i < 300; i += 1) yield event(String(i));
    };
    const { ids, code } = await collect(open());
    assert.deepEqual([ids.length, ids[0], ids.at(-1), code], [300, '0', '299', status.OK]);
    assert.equal(await counted.promise, 'GetContainerEvents ok');
    assert.deepEqual([lines[0]?.level, lines[0]?.fields['messages']], ['info', 300]);
  });

  test('may be empty', async () => {
    handler = async function* () {};
    assert.deepEqual(await collect(open()), { ids: [], code: status.OK, details: '' });
  });

  test('gives what came before an error, and then the error', async () => {
    handler = async function* () {
      yield event('a');
      yield event('b');
      throw new BerthError('unavailable', 'the store is gone');
    };
    const answer = await collect(open());
    assert.deepEqual(answer, { ids: ['a', 'b'], code: status.UNAVAILABLE, details: 'the store is gone' });
    assert.equal(await counted.promise, 'GetContainerEvents unavailable');
    assert.equal(lines[0]?.level, 'warn');
  });

  test('fails with the status of an error before the first message, also one thrown at once', async () => {
    handler = () => {
      throw new BerthError('invalid', 'filter: is odd');
    };
    const answer = await collect(open());
    assert.deepEqual(answer, { ids: [], code: status.INVALID_ARGUMENT, details: 'filter: is odd' });
  });

  test('asks for no more than a slow client takes', async () => {
    let made = 0;
    const big = 'x'.repeat(100_000);
    handler = async function* () {
      for (; made < 200; made += 1) yield event(big);
    };
    const slow = open();
    // Fills gRPC's own buffer and no more; a stream that nobody has begun to read takes all that comes.
    slow.read(0);
    await once(slow, 'readable');
    // Once other calls of the same client have gone through, it has had its time.
    handler = async function* () {};
    for (let i = 0; i < 100; i += 1) await collect(open());
    assert.ok(made < 50, `${made} messages were made for a client that reads none`);
    const { ids, code } = await collect(slow);
    assert.deepEqual([ids.length, code], [200, status.OK]);
  });

  test('ends what makes the messages when the client leaves, and is no failure then', async () => {
    const ended = Promise.withResolvers<string>();
    handler = async function* (_request, { signal }) {
      try {
        yield event('a');
        const { promise, reject } = Promise.withResolvers<never>();
        signal.addEventListener('abort', () => reject(signal.reason), { once: true });
        await promise;
      } finally {
        ended.resolve(signal.aborted ? 'by the signal' : 'otherwise');
      }
    };
    const call = open();
    call.on('error', () => {});
    await once(call, 'data');
    call.cancel();
    assert.equal(await ended.promise, 'by the signal');
    assert.equal(await counted.promise, 'GetContainerEvents ok');
    assert.deepEqual([lines[0]?.level, lines[0]?.fields['clientLeft']], ['info', true]);
  });

  test('ends an iterable that waits without looking at the signal', async () => {
    const returned = Promise.withResolvers<void>();
    handler = () => ({
      [Symbol.asyncIterator]: () => ({
        next: () => Promise.withResolvers<IteratorResult<ContainerEventResponse>>().promise,
        return: async () => {
          returned.resolve();
          return { done: true, value: undefined };
        },
      }),
    });
    const call = open();
    call.on('error', () => {});
    await once(call, 'metadata');
    call.cancel();
    await returned.promise;
    assert.equal(await counted.promise, 'GetContainerEvents ok');
  });

  test('ends at the deadline of the client', async () => {
    handler = async function* (_request, { signal }) {
      await once(signal, 'abort');
      yield event('too late');
    };
    const { code } = await collect(open({ deadline: Date.now() + 100 }));
    assert.equal(code, status.DEADLINE_EXCEEDED);
    assert.equal(await counted.promise, 'GetContainerEvents ok');
  });
});
