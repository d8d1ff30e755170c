import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { KernelFiles } from './kernel-files.ts';

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-kernel-files-'));
  path = join(folder, 'value');
});
afterEach(() => rmSync(folder, { recursive: true }));

const descriptors = (): number => readdirSync('/proc/self/fd').length;

test('a file stays open and tells what it says now', () => {
  writeFileSync(path, '1\n');
  const files = new KernelFiles();
  const file = files.file(path);
  assert.equal(files.open, 0, 'not before it is read');
  const before = descriptors();
  for (const text of ['1\n', '2000\n', '', '3\n']) {
    writeFileSync(path, text);
    assert.equal(file.read(), text);
  }
  assert.equal(files.open, 1);
  file.close();
  file.close();
  assert.equal(files.open, 0);
  assert.equal(descriptors(), before);
  assert.equal(file.read(), '3\n', 'it can be read again');
  file.close();
});

test('beyond the limit files are opened for each read', () => {
  const files = new KernelFiles({ maxOpen: 1 });
  const all = ['a', 'b', 'c'].map((name) => {
    writeFileSync(join(folder, name), name);
    return files.file(join(folder, name));
  });
  for (let round = 0; round < 2; round++) {
    assert.deepEqual(
      all.map((file) => file.read()),
      ['a', 'b', 'c'],
    );
  }
  assert.equal(files.open, 1);
  for (const file of all) file.close();
  assert.equal(files.open, 0);
});

test('what is not there is undefined, and looked for again only after it was closed', () => {
  const file = new KernelFiles().file(path);
  assert.equal(file.read(), undefined);
  writeFileSync(path, 'x');
  assert.equal(file.read(), undefined);
  file.close();
  assert.equal(file.read(), 'x');
  file.close();
});

test('what cannot be read is undefined', () => {
  assert.equal(new KernelFiles().file(folder).read(), undefined);
});

test('a large file is read as far as 256 KiB', () => {
  for (const length of [16 * 1024 - 1, 16 * 1024, 100_000, 300_000]) {
    writeFileSync(path, 'x'.repeat(length));
    const file = new KernelFiles().file(path);
    assert.equal(file.read()?.length, Math.min(length, 256 * 1024));
    file.close();
  }
});
