import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Config, loadConfig } from '../config/load-config.ts';
import { containerFindings } from './container-findings.ts';

const config = loadConfig({ defaultFile: '/nowhere/berth.toml' });

test('the defaults can be used', () => assert.deepEqual(containerFindings(config), []));

const bad: readonly [string, Partial<Config['runtime']>, RegExp][] = [
  ['capability', { defaultCapabilities: ['NOPE'] }, /^runtime\.default_capabilities no container .*"NOPE"/],
  ['profile', { seccompProfile: '/nosuch' }, /^runtime\.seccomp_profile no container .*RuntimeDefault.*\/nosuch/],
  ['sysctl', { defaultSysctls: ['kernel.panic=1'] }, /^runtime\.default_sysctls berthd cannot start: "kernel\.panic"/],
];
for (const [what, runtime, expected] of bad) {
  test(`a ${what} that cannot be used is an error, with what it keeps from working`, () => {
    const [found, ...others] = containerFindings({ ...config, runtime: { ...config.runtime, ...runtime } });
    assert.match(`${found?.subject} ${found?.message}`, expected);
    assert.deepEqual([found?.severity, others], ['error', []]);
  });
}

test('certificates that are missing, or none, are named', () => {
  for (const [tlsCert, expected] of [
    ['/nosuch.pem', /^stream\.tls_cert \/nosuch\.pem/],
    ['/etc/passwd', /^stream\.tls_cert \/etc\/passwd with stream\.tls_key \/etc\/passwd/],
  ] as const) {
    const stream = { ...config.stream, tlsCert, tlsKey: tlsCert === '/nosuch.pem' ? '' : tlsCert };
    assert.match(containerFindings({ ...config, stream })[0]?.subject ?? '', expected);
  }
});

test('certificates of metrics and traces are looked at where they are used', () => {
  const metrics = { ...config.metrics, listen: '127.0.0.1:0', tlsCert: '/nosuch.pem', tlsKey: '/nosuch.key' };
  const tracing = { ...config.tracing, endpoint: '127.0.0.1:4317', tls: true, tlsCa: '/nosuch-ca.pem' };
  assert.deepEqual(
    containerFindings({ ...config, metrics, tracing }).map(({ subject }) => subject),
    ['metrics.tls_cert /nosuch.pem', 'tracing.tls_ca /nosuch-ca.pem'],
  );
  const unused = { ...config, metrics: { ...metrics, listen: '' }, tracing: { ...tracing, endpoint: '' } };
  assert.deepEqual(containerFindings(unused), []);
});
