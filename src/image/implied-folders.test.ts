import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { isKind } from '../base/errors.ts';
import { glanceAtImplied, ImpliedFolders, readInnerImplied } from './implied-folders.ts';

describe('ImpliedFolders', () => {
  let folder: string;
  let file: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-implied-'));
    file = join(folder, 'implied');
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const implied = (paths: readonly string[]): ImpliedFolders => {
    const folders = new ImpliedFolders();
    for (const path of paths) folders.add(path);
    return folders;
  };

  it('come back from their file, and a look tells what there is', () => {
    assert.deepEqual([glanceAtImplied(file), readInnerImplied(file)], [{ root: false, inner: false }, []]);
    implied([]).write(file, false);
    assert.equal(existsSync(file), false);
    implied([]).write(file, true);
    assert.deepEqual([glanceAtImplied(file), readInnerImplied(file)], [{ root: true, inner: false }, []]);
    implied(['.x', '.x/\xff']).write(file, false);
    assert.deepEqual(
      [glanceAtImplied(file), readInnerImplied(file)],
      [{ root: false, inner: true }, ['.x', '.x/\xff']],
    );
    implied(['a']).write(file, true);
    assert.deepEqual([glanceAtImplied(file), readInnerImplied(file)], [{ root: true, inner: true }, ['a']]);
  });

  it('forget what is described after all, and what is gone with all below it', () => {
    const folders = implied(['a', 'a/b', 'a/b/c', 'a-b', 'd']);
    folders.deleteTree('a/b');
    folders.delete('d');
    folders.delete('never');
    folders.write(file, false);
    assert.deepEqual(readInnerImplied(file), ['a', 'a-b']);
  });

  it('are refused where there are too many, counted by those that are left', () => {
    const name = 'x'.repeat(1024 * 1024 - 1);
    const folders = new ImpliedFolders();
    for (let index = 0; index < 100; index += 1) {
      folders.add(`${index}${name}`);
      folders.delete(`${index}${name}`);
    }
    for (let index = 100; index < 131; index += 1) folders.add(`${index}${name}`);
    assert.throws(
      () => folders.add(name),
      (err) => isKind(err, 'invalid') && /names of more than 33554432 bytes/.test(String(err)),
    );
  });
});
