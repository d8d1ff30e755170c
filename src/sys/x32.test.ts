import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

import { kernelTakesX32 } from './x32.ts';

test('the kernel says itself whether it takes calls of x32', { skip: process.arch !== 'x64' }, (t) => {
  const { status, error } = spawnSync('perl', ['-e', 'exit(syscall(0x40000027) > 0 ? 0 : 1)']);
  if (error) return t.skip('there is no perl');
  assert.equal(kernelTakesX32(), status === 0);
});
