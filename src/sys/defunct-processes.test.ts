import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { DefunctProcesses } from './defunct-processes.ts';

test('counts processes in state Z, whatever their names, and not again for a while', async () => {
  const proc = mkdtempSync(join(tmpdir(), 'berth-proc-'));
  const put = (pid: string, stat: string): void => {
    mkdirSync(join(proc, pid));
    writeFileSync(join(proc, pid, 'stat'), stat);
  };
  try {
    put('1', '1 (init) S 0 1 1');
    put('20', '20 (sh) Z 1 20 20');
    put('21', '21 (a) Z b) S 1 21 21');
    put('22', '22 (c) S) Z 1 22 22');
    mkdirSync(join(proc, '30'));
    mkdirSync(join(proc, 'sys'));
    const defunct = new DefunctProcesses({ proc });
    assert.equal(await defunct.count(), 2);
    put('40', '40 (sh) Z 1 40 40');
    assert.equal(await defunct.count(), 2);
    assert.equal(await new DefunctProcesses({ proc, freshMs: 0 }).count(), 3);
  } finally {
    rmSync(proc, { recursive: true });
  }
});
