import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';

import { makeFolders, makeFoldersAside } from './make-folders.ts';

const ways: Readonly<Record<string, (path: string, mode: number) => Promise<void>>> = {
  makeFolders: async (path, mode) => makeFolders(path, mode),
  makeFoldersAside,
};
for (const [name, make] of Object.entries(ways))
  suite(name, () => {
    let folder: string;
    before(() => {
      folder = mkdtempSync(join(tmpdir(), 'berth-folders-'));
    });
    after(() => rmSync(folder, { recursive: true }));

    test('makes all that is missing, with this mode, and takes what is there', async () => {
      const path = join(folder, 'a/b/c');
      await make(path, 0o700);
      await make(path, 0o755);
      for (const each of [path, join(folder, 'a')]) assert.equal(statSync(each).mode & 0o777, 0o700);
      mkdirSync(join(folder, 'there'));
      symlinkSync('there', join(folder, 'link'));
      await make(join(folder, 'link/below'), 0o700);
      assert.ok(statSync(join(folder, 'there/below')).isDirectory());
    });

    test('says where none can be made, and does not try for ever', async () => {
      await assert.rejects(make('/proc/berth-none', 0o700), { code: 'ENOENT' });
      await assert.rejects(make('/proc/berth-none/below', 0o700), { code: 'ENOENT' });
    });

    test('says what is in the way', async () => {
      writeFileSync(join(folder, 'file'), '');
      symlinkSync('nowhere', join(folder, 'dangling'));
      await assert.rejects(make(join(folder, 'file'), 0o700), { code: 'EEXIST' });
      await assert.rejects(make(join(folder, 'file/below'), 0o700), { code: 'ENOTDIR' });
      await assert.rejects(make(join(folder, 'dangling'), 0o700), { code: 'EEXIST' });
      await assert.rejects(make(join(folder, 'dangling/below'), 0o700), { code: 'EEXIST' });
    });
  });
