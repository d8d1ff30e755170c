import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { ParsedFolders } from './parsed-folders.ts';

describe('ParsedFolders', () => {
  let top: string;
  let parsed: string[];
  let folders: ParsedFolders<string>;
  const write = (path: string, text: string): void => writeFileSync(join(top, path), text);
  const read = async () => {
    const { files, problems } = await folders.read();
    return {
      files: files.map(({ name, folder, value }) => `${folder} ${name} ${value}`),
      problems: problems.map(({ path, problem }) => `${path.slice(top.length)}: ${problem}`),
    };
  };

  beforeEach(() => {
    top = mkdtempSync(join(tmpdir(), 'berth-folders-'));
    for (const name of ['a', 'b']) mkdirSync(join(top, name));
    parsed = [];
    folders = new ParsedFolders({
      folders: ['b', 'no-such', 'a'].map((name) => join(top, name)),
      suffixes: ['.json'],
      parse(text, name) {
        parsed.push(name);
        if (text === 'bad') throw new Error('it is bad');
        return text;
      },
    });
  });
  afterEach(() => rmSync(top, { recursive: true }));

  it('reads files by folder and name, and parses again only what has changed', async () => {
    write('a/2.json', 'two');
    write('a/1.json', 'one');
    write('b/1.json', 'other');
    for (const name of ['a/.hidden.json', 'a/text.txt']) write(name, '');
    const all = { files: ['0 1.json other', '2 1.json one', '2 2.json two'], problems: [] };
    assert.deepEqual(await read(), all);
    assert.deepEqual(await read(), all);
    assert.equal(parsed.length, 3);
    write('a/1.json', 'changed');
    rmSync(join(top, 'b/1.json'));
    assert.deepEqual(await read(), { files: ['2 1.json changed', '2 2.json two'], problems: [] });
    assert.deepEqual(parsed.slice(3), ['1.json']);
  });

  it('takes nothing that others than root may have written', async (t) => {
    write('a/own.json', 'own');
    write('a/public.json', 'public');
    chmodSync(join(top, 'a/public.json'), 0o646);
    assert.deepEqual(await read(), {
      files: ['2 own.json own'],
      problems: ['/a/public.json: everybody may change it'],
    });
    chmodSync(join(top, 'a/public.json'), 0o644);
    assert.deepEqual((await read()).problems, []);
    if (process.getuid?.() !== 0) return t.skip('only root gives files away');
    chownSync(join(top, 'a/own.json'), 1000, 0);
    chownSync(join(top, 'a/public.json'), 0, 1000);
    chmodSync(join(top, 'a/public.json'), 0o664);
    assert.deepEqual((await read()).problems, [
      '/a/own.json: it belongs to user 1000, not to root',
      '/a/public.json: group 1000 may change it',
    ]);
  });

  it('says of each bad file why, every time, and uses the others', async () => {
    write('a/bad.json', 'bad');
    write('a/good.json', 'good');
    write('a/large.json', 'x'.repeat((1 << 20) + 1));
    mkdirSync(join(top, 'a/folder.json'));
    execFileSync('mkfifo', [join(top, 'a/fifo.json')]);
    symlinkSync('/no/such', join(top, 'a/link.json'));
    symlinkSync('good.json', join(top, 'a/other.json'));
    const found = {
      files: ['2 good.json good', '2 other.json good'],
      problems: [
        '/a/bad.json: it is bad',
        '/a/fifo.json: it is not a file',
        '/a/folder.json: it is not a file',
        '/a/large.json: it has more than 1048576 bytes',
      ],
    };
    assert.deepEqual(await read(), found);
    assert.deepEqual(await read(), found);
    assert.equal(parsed.filter((name) => name === 'bad.json').length, 1);
  });
});
