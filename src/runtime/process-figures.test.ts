import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';

import { readOpenFilesLimit, readProcessFigures } from './process-figures.ts';

const GONE = 2 ** 22 + 1;
const noBreath = async (): Promise<void> => {};

test('open files and sockets are counted', async () => {
  const before = await readProcessFigures([process.pid], noBreath);
  assert.ok(Math.abs(before.fileDescriptors - readdirSync('/proc/self/fd').length) <= 2);
  const files = Array.from({ length: 20 }, () => openSync('/dev/null', 'r'));
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const after = await readProcessFigures([process.pid], noBreath);
  for (const fd of files) closeSync(fd);
  server.close();
  assert.equal(after.sockets - before.sockets, 1);
  assert.ok(after.fileDescriptors - before.fileDescriptors >= 21);
});

test('processes that are gone count nothing', async () => {
  assert.deepEqual(await readProcessFigures([GONE], noBreath), { fileDescriptors: 0, sockets: 0 });
  assert.equal(readOpenFilesLimit(GONE), undefined);
});

test('a process with many descriptors is counted in pieces, and its sockets only so far', async () => {
  const files = Array.from({ length: 600 }, () => openSync('/dev/null', 'r'));
  let breaths = 0;
  const pids = Array.from({ length: 12 }, () => process.pid);
  const figures = await readProcessFigures(pids, async () => {
    breaths += 1;
  });
  for (const fd of files) closeSync(fd);
  assert.ok(breaths >= 30, `${breaths} breaths`);
  assert.ok(figures.fileDescriptors >= 5000);
});

test('the limit on open files is this process has', () => {
  assert.ok((readOpenFilesLimit(process.pid) ?? 0) > 0);
});
