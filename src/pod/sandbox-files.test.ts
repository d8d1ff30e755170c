import assert from 'node:assert/strict';
import { test } from 'node:test';

import { renderResolvConf } from './sandbox-files.ts';

test('resolv.conf has search, nameservers and options', () => {
  assert.equal(
    renderResolvConf({
      servers: ['10.0.0.10', 'fd00::a'],
      searches: ['ns.svc.cluster.local', 'svc.cluster.local'],
      options: ['ndots:5'],
    }),
    'search ns.svc.cluster.local svc.cluster.local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n',
  );
});

test('a value that would break out of its line is refused', () => {
  assert.throws(() => renderResolvConf({ servers: ['1.1.1.1\nnameserver 6.6.6.6'], searches: [], options: [] }), {
    kind: 'invalid',
    message: /^config\.dns_config\.servers/,
  });
});
