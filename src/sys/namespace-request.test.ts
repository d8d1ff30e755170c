import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { checkNamespaceRequest, type NamespaceKind, sysctlPath } from './namespace-request.ts';

const kinds: readonly NamespaceKind[] = ['net', 'ipc', 'uts', 'pid'];
const request = { pausePath: '/pause', kinds, hostname: '', sysctls: {}, pinDir: '/run/x' };

test('sysctl names become paths, whichever separator they use', () => {
  assert.equal(sysctlPath('net.ipv4.ip_forward'), '/proc/sys/net/ipv4/ip_forward');
  assert.equal(sysctlPath('net/ipv4/ip_forward'), '/proc/sys/net/ipv4/ip_forward');
  assert.equal(sysctlPath('net.ipv4.conf.eth0/100.forwarding'), '/proc/sys/net/ipv4/conf/eth0.100/forwarding');
  assert.equal(sysctlPath('net/ipv4/conf/eth0.100/forwarding'), '/proc/sys/net/ipv4/conf/eth0.100/forwarding');
});

test('no name leads out of /proc/sys', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom('net', '..', '.', '/', 'a', '', '\0')), (parts) => {
      let path: string;
      try {
        path = sysctlPath(parts.join(''));
      } catch {
        return;
      }
      assert.ok(path.startsWith('/proc/sys/') && !path.split('/').includes('..') && !path.includes('\0'), path);
    }),
  );
});

test('what would change the host is refused', () => {
  const refuse = (more: object, message: RegExp): void =>
    assert.throws(() => checkNamespaceRequest({ ...request, ...more }), { kind: 'invalid', message });
  refuse({ kinds: ['net'], hostname: 'x' }, /hostname.*rename the host/);
  refuse({ kinds: ['ipc'], sysctls: { 'net.core.somaxconn': '1' } }, /net\.core\.somaxconn.*change the host/);
  refuse({ kinds: ['net'], sysctls: { 'kernel.shmmax': '1' } }, /kernel\.shmmax/);
  refuse({ sysctls: { 'kernel.panic': '1' } }, /no namespace/);
  refuse({ sysctls: { 'vm.swappiness': '1' } }, /no namespace/);
  refuse({ sysctls: { 'net.ipv4.ip_forward': '1\n2' } }, /one line/);
  refuse({ sysctls: { 'net.../../kernel/panic': '1' } }, /not a sysctl name/);
  refuse({ hostname: 'x'.repeat(65) }, /64 bytes/);
  refuse({ hostname: 'a\0b' }, /one line/);
});

test('a pod’s own settings pass', () => {
  const sysctls = {
    'net.ipv4.ip_forward': '1',
    'kernel/sem': '1 2 3 4',
    'fs.mqueue.msg_max': '20',
    'kernel.shmmax': '',
  };
  checkNamespaceRequest({ ...request, hostname: 'h'.repeat(64), sysctls });
  checkNamespaceRequest({ ...request, kinds: [] });
});
