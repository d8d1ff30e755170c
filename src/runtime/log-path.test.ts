import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import fc from 'fast-check';

import { containerLogPath, prepareLogFile, removeLogFile } from './log-path.ts';

describe('containerLogPath', () => {
  it('joins directory and path', () => {
    assert.equal(containerLogPath('/var/log/pods/x', 'main/0.log', 'id'), '/var/log/pods/x/main/0.log');
    assert.equal(containerLogPath('/var/log', './a/../0.log', 'id'), '/var/log/0.log');
  });

  it('names the file after the container when the client does not', () => {
    assert.equal(containerLogPath('/var/log', '', 'id'), '/var/log/id.log');
  });

  it('is empty without a directory', () => {
    assert.equal(containerLogPath('', '', 'id'), '');
  });

  const bad: [string, string, RegExp][] = [
    ['', '0.log', /^config\.log_path: /],
    ['log', '0.log', /^sandbox_config\.log_directory: /],
    ['/log', '/0.log', /^config\.log_path: /],
    ['/log', '..', /^config\.log_path: .* out of/],
    ['/log', 'a/../../x', /^config\.log_path: .* out of/],
    ['/log', '.', /names no file/],
    ['/log', 'a/', /names no file/],
    ['/log', 'a:b', /colon/],
    ['/l:g', 'a', /^sandbox_config\.log_directory: .*colon/],
  ];
  for (const [directory, path, message] of bad) {
    it(`refuses ${JSON.stringify(path)} in ${JSON.stringify(directory)}`, () => {
      assert.throws(() => containerLogPath(directory, path, 'id'), { kind: 'invalid', message });
    });
  }

  it('never leads out of the directory', () => {
    const part = fc.oneof(fc.constantFrom('..', '.', '', 'a', '...'), fc.string());
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        try {
          const path = containerLogPath('/log', parts.join('/'), 'id');
          assert.ok(path.startsWith('/log/') && !path.split('/').includes('..'), path);
        } catch (err) {
          assert.equal((err as { kind?: unknown }).kind, 'invalid');
        }
      }),
    );
  });
});

describe('prepareLogFile', () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-log-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  it('makes folders and an empty file for root and its group', () => {
    const path = join(folder, 'a/b/0.log');
    prepareLogFile(path);
    assert.equal(statSync(path).mode & 0o777, 0o640);
    assert.equal(statSync(path).size, 0);
  });

  it('keeps what is there', () => {
    const path = join(folder, 'kept.log');
    appendFileSync(path, 'before\n');
    prepareLogFile(path);
    assert.equal(readFileSync(path, 'utf8'), 'before\n');
  });

  it('puts a file in the place of a link that leads nowhere', () => {
    const path = join(folder, 'link.log');
    symlinkSync(join(folder, 'victim'), path);
    prepareLogFile(path);
    assert.ok(lstatSync(path).isFile());
    assert.ok(!existsSync(join(folder, 'victim')));
  });

  it('refuses a folder, and a path through a file', () => {
    mkdirSync(join(folder, 'dir.log'));
    writeFileSync(join(folder, 'file'), '');
    assert.throws(() => prepareLogFile(join(folder, 'dir.log')), { kind: 'invalid', message: /is a folder/ });
    assert.throws(() => prepareLogFile(join(folder, 'file/0.log')), { kind: 'invalid', message: /not a folder/ });
    assert.throws(() => prepareLogFile('/proc/none/0.log'), { kind: 'invalid', message: /nothing can be made/ });
  });

  it('refuses a pipe without waiting for a reader, a path too long and one that goes in circles', () => {
    const pipe = join(folder, 'pipe.log');
    execFileSync('mkfifo', [pipe]);
    symlinkSync('loop.log', join(folder, 'loop.log'));
    for (const [path, message] of [
      [pipe, /is a pipe/],
      [join(folder, 'loop.log'), /symbolic links/],
      [join(folder, 'x'.repeat(300)), /too long/],
      [join(folder, 'x/'.repeat(3000), '0.log'), /too long/],
    ] as const) {
      assert.throws(() => prepareLogFile(path), { kind: 'invalid', message });
      removeLogFile(path);
    }
    // One that somebody reads right now is no file either.
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    assert.throws(() => prepareLogFile(pipe), { kind: 'invalid', message: /is a pipe/ });
    closeSync(reader);
  });

  it('removes a file, present or not', () => {
    const path = join(folder, 'gone.log');
    prepareLogFile(path);
    removeLogFile(path);
    removeLogFile(path);
    removeLogFile('');
    assert.ok(!existsSync(path));
  });
});
