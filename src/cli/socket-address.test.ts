import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CliError } from './cli-error.ts';
import { socketAddress } from './socket-address.ts';

test('a socket is named by its path, with or without a scheme', () => {
  for (const text of ['unix:///run/b.sock', 'unix:/run/b.sock', '/run/b.sock'])
    assert.equal(socketAddress(text), 'unix:///run/b.sock');
});

test('anything else is refused in words', () => {
  for (const text of ['tcp://127.0.0.1:1', 'http://x', 'relative.sock', 'unix://relative', '', 'unix:///', '/a\0b']) {
    assert.throws(
      () => socketAddress(text),
      (err) => err instanceof CliError && err.message.includes('unix') && err.hint !== undefined,
      text,
    );
  }
});
