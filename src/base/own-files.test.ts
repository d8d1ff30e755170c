import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { documentPath, samplePath } from './own-files.ts';

test('a checkout has samples and documents in its own folders', () => {
  const sample = samplePath('cni/10-berth.conflist');
  assert.ok(sample.endsWith('/deploy/cni/10-berth.conflist') && existsSync(sample), sample);
  assert.ok(documentPath('images.md').endsWith('/docs/images.md'));
});

test('an archive has them below share, a package in /usr/share/doc', () => {
  const top = mkdtempSync(join(tmpdir(), 'berth-own-files-'));
  try {
    assert.equal(samplePath('cni/10-berth.conflist', top), '/usr/share/doc/berth/examples/cni/10-berth.conflist');
    mkdirSync(join(top, 'share/doc/berth/examples'), { recursive: true });
    writeFileSync(join(top, 'share/doc/berth/examples/berth.toml'), '');
    writeFileSync(join(top, 'share/doc/berth/images.md'), '');
    assert.equal(samplePath('berth.toml', top), join(top, 'share/doc/berth/examples/berth.toml'));
    assert.equal(documentPath('images.md', top), join(top, 'share/doc/berth/images.md'));
  } finally {
    rmSync(top, { recursive: true });
  }
});
