import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

import { nextVersion } from './packages.ts';

test('dpkg takes the next version for a later one', () => {
  for (const version of ['0.1.0', '1.2.3~rc1', '2.0'])
    execFileSync('dpkg', ['--compare-versions', nextVersion(version), 'gt', version]);
  assert.equal(nextVersion('0.1.0'), '0.1.0+next');
});
