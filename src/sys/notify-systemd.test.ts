import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { check } from './errno.ts';
import { libc } from './libc.ts';
import { notifySystemd } from './notify-systemd.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;
const socket = libc.func('socket', 'int', ['int', 'int', 'int']) as (
  family: number,
  type: number,
  protocol: number,
) => number;
const bind = libc.func('bind', 'int', ['int', 'void *', 'uint']) as (
  fd: number,
  address: Uint8Array,
  length: number,
) => number;
const recv = libc.func('recv', 'long', ['int', 'void *', 'size_t', 'int']) as (
  fd: number,
  data: Uint8Array,
  length: number,
  flags: number,
) => number;

test('without a service manager nothing is sent', () => {
  assert.equal(notifySystemd('READY=1', ''), false);
});

for (const kind of ['path', 'abstract'] as const) {
  test(`a state reaches a socket with a name that is a ${kind}`, () => {
    const dir = mkdtempSync(join(tmpdir(), 'berth-notify-'));
    const name = kind === 'path' ? join(dir, 'notify') : `@berth-notify-${process.pid}`;
    const fd = check('socket', 'test', socket(AF_UNIX, SOCK_DGRAM, 0));
    try {
      const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(name.replace('@', '\0'))]);
      check('bind', name, bind(fd, address, address.length));
      assert.equal(notifySystemd('READY=1', name), true);
      const data = Buffer.alloc(100);
      const length = check('recv', name, recv(fd, data, data.length, MSG_DONTWAIT));
      assert.equal(data.toString('utf8', 0, length), 'READY=1');
    } finally {
      closeSync(fd);
      rmSync(dir, { recursive: true });
    }
  });
}

test('a service manager that is gone is an error that names the socket', () => {
  assert.throws(() => notifySystemd('READY=1', '/no/such/socket'), /sendto \/no\/such\/socket: .*ENOENT/);
});
