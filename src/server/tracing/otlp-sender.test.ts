import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import { OtlpReceiver } from '../../../test/fakes/otlp-receiver.ts';
import { silentLogger } from '../../base/log.ts';
import { OtlpSender } from './otlp-sender.ts';
import type { EndedSpan } from './tracer.ts';

const SPAN: EndedSpan = {
  traceId: '4bf92f3577b34da6a3ce929d0e0e4736',
  spanId: '00f067aa0ba902b7',
  parentId: '',
  state: '',
  name: 'RunPodSandbox',
  kind: 'server',
  startMs: 1_700_000_000_000.25,
  endMs: 1_700_000_000_001.5,
  facts: { 'k8s.pod.name': 'web', pid: 7, ok: true, none: undefined },
  problem: undefined,
};

suite('spans over OTLP', { timeout: 120_000 }, () => {
  let receiver: OtlpReceiver;
  const counted = { exported: 0, dropped: 0, failed: 0 };
  const warnings: string[] = [];
  const sender = (endpoint = receiver.endpoint): OtlpSender =>
    new OtlpSender({
      endpoint,
      tls: undefined,
      resource: { 'service.name': 'berthd' },
      log: { ...silentLogger, warn: (_fields, message) => void warnings.push(message) },
      count: (outcome, spans) => {
        counted[outcome] += spans;
      },
      collectMs: 5,
    });

  beforeEach(async () => {
    receiver = await OtlpReceiver.start();
    Object.assign(counted, { exported: 0, dropped: 0, failed: 0 });
    warnings.length = 0;
  });
  afterEach(() => receiver.close());

  test('a proxy for registries is not asked', async (t) => {
    const before = process.env['https_proxy'];
    process.env['https_proxy'] = 'http://127.0.0.1:9';
    t.after(() => {
      if (before === undefined) delete process.env['https_proxy'];
      else process.env['https_proxy'] = before;
    });
    const sending = sender();
    sending.offer(SPAN);
    assert.equal((await receiver.spans(1))[0]?.name, SPAN.name);
    await sending.close();
  });

  test('times, ids, facts and status arrive as they are', async () => {
    const sending = sender();
    sending.offer(SPAN);
    sending.offer({
      ...SPAN,
      parentId: SPAN.spanId,
      spanId: 'aaaaaaaaaaaaaaaa',
      problem: 'no network',
      kind: 'client',
    });
    const [first, second] = await receiver.spans(2);
    assert.ok(first && second);
    assert.deepEqual(
      { ...first, attributes: Object.fromEntries(first.attributes) },
      {
        traceId: SPAN.traceId,
        spanId: SPAN.spanId,
        parentId: '',
        name: 'RunPodSandbox',
        kind: 2,
        startNs: 1_700_000_000_000_250_000n,
        endNs: 1_700_000_000_001_500_000n,
        attributes: { 'k8s.pod.name': 'web', pid: 7n, ok: true },
        status: { code: 1, message: '' },
        service: 'berthd',
      },
    );
    assert.deepEqual([second.parentId, second.status], [SPAN.spanId, { code: 2, message: 'no network' }]);
    await sending.close();
    assert.deepEqual(counted, { exported: 2, dropped: 0, failed: 0 });
  });

  test('a receiver that is away is tried again; what has no room is dropped and counted; nobody waits', async () => {
    receiver.refuse = true;
    const sending = sender();
    for (let n = 0; n < 5000; n += 1) sending.offer(SPAN);
    assert.equal(sending.waiting, 2048);
    assert.equal(counted.dropped, 5000 - 2048);
    await receiver.refused(2);
    assert.deepEqual(warnings, ['traces are not taken']);
    receiver.refuse = false;
    await receiver.spans(2048);
    await sending.close();
    assert.equal(sending.waiting, 0);
    assert.deepEqual(counted, { exported: 2048, dropped: 5000 - 2048, failed: 0 });
  });

  test('closing sends what waits, and does not wait for a receiver that is not there', async () => {
    const sending = sender();
    sending.offer(SPAN);
    await sending.close();
    assert.equal(counted.exported + counted.dropped, 1);
    assert.equal(counted.exported, 1);
    const lost = sender('127.0.0.1:1');
    lost.offer(SPAN);
    await lost.close();
    assert.equal(counted.dropped, 1);
    lost.offer(SPAN);
    assert.equal(counted.dropped, 2);
  });

  test('closing does not wait long for a receiver that does not answer what was sent before', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket.on('error', () => {}).resume())).listen(0, '127.0.0.1');
    try {
      await once(silent, 'listening');
      const sending = sender(`127.0.0.1:${(silent.address() as AddressInfo).port}`);
      sending.offer(SPAN);
      await once(silent, 'connection');
      const late = new Promise((resolve) => setTimeout(resolve, 9_000, 'late').unref());
      assert.equal(await Promise.race([sending.close().then(() => 'closed'), late]), 'closed');
      assert.deepEqual(counted, { exported: 0, dropped: 1, failed: 0 });
    } finally {
      silent.close();
      for (const socket of sockets) socket.destroy();
    }
  });
});
