import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { kernelTakesX32 } from './x32.ts';

// A filter may kill who asks, and is not asked.
const isFiltered = !/^Seccomp:\s*0$/m.test(readFileSync('/proc/self/status', 'utf8'));
const skip = process.arch !== 'x64' || isFiltered;

test('the kernel says itself whether it takes calls of x32', { skip }, (t) => {
  const { status, error } = spawnSync('perl', ['-e', 'exit(syscall(0x40000027) > 0 ? 0 : 1)']);
  if (error) return t.skip('there is no perl');
  assert.equal(kernelTakesX32(), status === 0);
});
