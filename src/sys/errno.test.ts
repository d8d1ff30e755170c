import assert from 'node:assert/strict';
import { closeSync, readFileSync } from 'node:fs';
import { test } from 'node:test';

import { AT_FDCWD, mkdirat, openat } from './at.ts';
import { isErrno, SyscallError, syscallError } from './errno.ts';

test('a refused call names itself, its subject and the errno, and has a kind', () => {
  assert.throws(
    () => openat(AT_FDCWD, '/no/such/file', 0),
    (err) =>
      err instanceof SyscallError &&
      err.errno === 'ENOENT' &&
      err.call === 'openat' &&
      err.kind === 'notFound' &&
      err.message === 'openat /no/such/file: no such file or directory (ENOENT)',
  );
  assert.throws(() => mkdirat(AT_FDCWD, '/', 0o755), { kind: 'alreadyExists', errno: 'EEXIST' });
});

test('errnos become names and kinds', () => {
  assert.equal(syscallError('x', 'y', 28).kind, 'exhausted');
  assert.equal(syscallError('x', 'y', 22).kind, 'internal');
  assert.deepEqual([syscallError('x', 'y', 95).errno, syscallError('x', 'y', 11).errno], ['ENOTSUP', 'EAGAIN']);
  assert.equal(syscallError('x', 'y', 4095).errno, 'errno 4095');
});

test('isErrno knows our errors and those of node:fs', () => {
  const caught = (fn: () => unknown): unknown => {
    try {
      return fn();
    } catch (err) {
      return err;
    }
  };
  assert.equal(
    isErrno(
      caught(() => readFileSync('/no/such')),
      'ENOENT',
    ),
    true,
  );
  assert.equal(
    isErrno(
      caught(() => closeSync(99_999)),
      'ENOENT',
    ),
    false,
  );
  assert.equal(isErrno(syscallError('x', 'y', 1), 'EPERM'), true);
  assert.equal(isErrno('ENOENT', 'ENOENT'), false);
});

test('a NUL in a name is refused, because C would cut the name there', () => {
  assert.throws(() => openat(AT_FDCWD, '/etc/passwd\0.txt', 0), { kind: 'invalid' });
  assert.throws(() => openat(AT_FDCWD, Buffer.from('/etc\0'), 0), { kind: 'invalid' });
});
