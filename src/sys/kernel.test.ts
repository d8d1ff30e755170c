import assert from 'node:assert/strict';
import { test } from 'node:test';

import { kernelRelease, parseKernelRelease } from './kernel.ts';

test('a kernel release is read up to its minor number', () => {
  assert.deepEqual(parseKernelRelease('6.1.0-18-cloud-amd64'), { major: 6, minor: 1 });
  assert.deepEqual(parseKernelRelease('5.10'), { major: 5, minor: 10 });
  assert.deepEqual(parseKernelRelease('odd'), { major: 0, minor: 0 });
  assert.ok(kernelRelease().major >= 5);
});
