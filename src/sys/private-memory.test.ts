import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const MODULE = fileURLToPath(new URL('./private-memory.ts', import.meta.url));

/** Whether a program, and one that it starts, may be dumped: PR_GET_DUMPABLE is 3. */
const PROGRAM = `
  const { keepMemoryPrivate } = await import(${JSON.stringify(MODULE)});
  const { libc } = await import(${JSON.stringify(MODULE.replace('private-memory', 'libc'))});
  const { execFileSync } = await import('node:child_process');
  const ask = libc.func('prctl', 'int', ['int', 'ulong', 'ulong', 'ulong', 'ulong']);
  const before = ask(3, 0, 0, 0, 0);
  keepMemoryPrivate();
  console.log(before, ask(3, 0, 0, 0, 0), execFileSync('cat', ['/proc/self/comm'], { encoding: 'utf8' }).trim());`;

test('memory is kept out of core files, and programs can be started as before', () => {
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', PROGRAM], { encoding: 'utf8' });
  assert.equal(out.trim(), '1 0 cat');
});
