import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { lateCloseEnv, lateCloseLibrary } from './late-close.ts';

test('only a library that the dynamic linker can take is used, and the log says of any other', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-late-close-'));
  const warned: unknown[] = [];
  const usable = (path: string | undefined): string | undefined =>
    lateCloseLibrary(path, { warn: (fields) => void warned.push(fields['path']) });
  try {
    const [good = '', spaced = '', listed = ''] = ['a.so', 'a b.so', 'a:b.so'].map((name) => join(folder, name));
    for (const file of [good, spaced, listed]) writeFileSync(file, '');
    const missing = join(folder, 'none.so');
    assert.deepEqual([good, undefined].map(usable), [good, undefined]);
    assert.deepEqual(warned, []);
    assert.deepEqual([spaced, listed, missing].map(usable), [undefined, undefined, undefined]);
    assert.deepEqual(warned, [spaced, listed, missing]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a plugin whose rules may hold what others wait for has none', () => {
  assert.deepEqual(lateCloseEnv('/a.so', 'portmap'), { LD_PRELOAD: '/a.so' });
  for (const plugin of ['calico', 'tuning', '']) assert.deepEqual(lateCloseEnv('/a.so', plugin), {});
  assert.deepEqual(lateCloseEnv(undefined, 'bridge'), {});
});
