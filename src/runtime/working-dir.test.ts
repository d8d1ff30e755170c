import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { ensureWorkingDir } from './working-dir.ts';

describe('ensureWorkingDir', () => {
  let folder = '';
  let rootfs = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-cwd-'));
    rootfs = join(folder, 'rootfs');
    mkdirSync(join(rootfs, 'var'), { recursive: true });
    symlinkSync('/var', join(rootfs, 'absolute'));
    symlinkSync('../../../../outside', join(rootfs, 'climbing'));
    symlinkSync('nowhere', join(rootfs, 'dangling'));
    writeFileSync(join(rootfs, 'file'), '');
  });
  after(() => rmSync(folder, { recursive: true }));

  it('makes what is missing, and leaves what is there', () => {
    ensureWorkingDir(rootfs, '/a/b/c');
    ensureWorkingDir(rootfs, '/a/b/c');
    ensureWorkingDir(rootfs, '/');
    assert.equal(statSync(join(rootfs, 'a/b/c')).mode & 0o777, 0o755);
  });

  it("follows the image's links inside its root only", () => {
    ensureWorkingDir(rootfs, '/absolute/new');
    assert.ok(existsSync(join(rootfs, 'var/new')));
    mkdirSync(join(rootfs, 'outside'));
    ensureWorkingDir(rootfs, '/climbing/new');
    assert.ok(existsSync(join(rootfs, 'outside/new')));
    assert.ok(!existsSync(join(folder, 'outside')));
  });

  for (const path of ['/file', '/file/x', '/dangling', '/dangling/x']) {
    it(`refuses ${path}`, () => {
      assert.throws(() => ensureWorkingDir(rootfs, path), { kind: 'invalid', message: /^config\.working_dir: / });
    });
  }
});
