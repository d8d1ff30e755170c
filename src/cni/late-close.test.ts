import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { lateCloseEnv } from './late-close.ts';

test('only a library that the dynamic linker can take is handed on', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-late-close-'));
  try {
    const [good, spaced, listed] = ['a.so', 'a b.so', 'a:b.so'].map((name) => join(folder, name));
    for (const file of [good, spaced, listed]) writeFileSync(String(file), '');
    assert.deepEqual(lateCloseEnv(good), { LD_PRELOAD: good });
    for (const path of [undefined, spaced, listed, join(folder, 'none.so')]) assert.deepEqual(lateCloseEnv(path), {});
  } finally {
    rmSync(folder, { recursive: true });
  }
});
