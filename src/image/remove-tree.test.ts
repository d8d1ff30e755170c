import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { removeTree } from './remove-tree.ts';

test('a deep tree goes also where an earlier removal has moved parts of it up', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-remove-tree-'));
  try {
    const top = join(folder, 'top');
    for (const name of ['a', `.deep-${process.pid}-0`, `.deep-${process.pid}-1`])
      mkdirSync(join(top, name, ...Array.from({ length: 250 }, () => 'd')), { recursive: true });
    removeTree(top);
    assert.equal(existsSync(top), false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
