import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Exposed, exposureFindings } from './exposure-findings.ts';

const nothing: Exposed = {
  stream: { listen: '127.0.0.1:0', tlsCert: '', tlsKey: '', tlsClientCa: '' },
  metrics: { listen: '', socket: '', tlsCert: '', tlsKey: '', tlsClientCa: '' },
  tracing: { endpoint: '', samplingRatePerMillion: 0, tls: false, tlsCa: '', tlsCert: '', tlsKey: '' },
  runtime: { defaultCapabilities: ['CHOWN', 'NET_BIND_SERVICE'], apparmorProfile: 'berth-default' },
};

function subjectsOf(exposed: Exposed, hasAppArmor = true): string[] {
  return exposureFindings(exposed, hasAppArmor).map(({ severity, subject }) => `${severity} ${subject}`);
}

test('what only this host reaches, and what asks who is there, is fine', () => {
  assert.deepEqual(subjectsOf(nothing), []);
  for (const listen of ['127.0.0.1:9190', 'localhost:9190', '[::1]:9190']) {
    assert.deepEqual(subjectsOf({ ...nothing, metrics: { ...nothing.metrics, listen } }), []);
    assert.deepEqual(subjectsOf({ ...nothing, tracing: { ...nothing.tracing, endpoint: listen } }), []);
  }
  const tls = { tlsCert: '/c', tlsKey: '/k', tlsClientCa: '/a' };
  assert.deepEqual(subjectsOf({ ...nothing, metrics: { ...nothing.metrics, ...tls, listen: '0.0.0.0:9190' } }), []);
  assert.deepEqual(subjectsOf({ ...nothing, stream: { ...tls, tlsClientCa: '', listen: '0.0.0.0:9191' } }), []);
  assert.deepEqual(subjectsOf({ ...nothing, tracing: { ...nothing.tracing, endpoint: 'far:4317', tls: true } }), []);
});

test('metrics that anybody may read are told, in the clear or not', () => {
  for (const listen of ['0.0.0.0:9190', '[::]:9190', '10.0.0.7:9190']) {
    const [plain] = exposureFindings({ ...nothing, metrics: { ...nothing.metrics, listen } });
    assert.equal(plain?.subject, `metrics.listen ${listen}`);
    assert.match(plain.message, /in the clear/);
  }
  const metrics = { ...nothing.metrics, listen: '0.0.0.0:9190', tlsCert: '/c', tlsKey: '/k' };
  const [withTls] = exposureFindings({ ...nothing, metrics });
  assert.match(withTls?.message ?? '', /nobody is asked/);
  assert.doesNotMatch(withTls?.message ?? '', /in the clear/);
});

test('streams and traces in the clear are told', () => {
  assert.deepEqual(
    subjectsOf({
      ...nothing,
      stream: { ...nothing.stream, listen: '0.0.0.0:9191' },
      tracing: { ...nothing.tracing, endpoint: 'collector:4317' },
    }),
    ['warning stream.listen 0.0.0.0:9191', 'warning tracing.endpoint collector:4317'],
  );
});

test('what every container gets too much of, or too little, is told', () => {
  const runtime = { defaultCapabilities: ['CHOWN', 'CAP_SYS_ADMIN', 'bpf'], apparmorProfile: 'unconfined' };
  const [capabilities] = exposureFindings({ ...nothing, runtime }, false);
  assert.match(capabilities?.message ?? '', /by CAP_SYS_ADMIN, bpf,/);
  assert.deepEqual(subjectsOf({ ...nothing, runtime }), [
    'warning runtime.default_capabilities',
    'info runtime.apparmor_profile unconfined',
  ]);
  assert.deepEqual(subjectsOf({ ...nothing, runtime }, false), ['warning runtime.default_capabilities']);
});
