import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { resolveImagePath } from './image-path.ts';

let top: string;
let image: string;

beforeEach(() => {
  top = realpathSync(mkdtempSync(join(tmpdir(), 'berth-image-path-')));
  image = join(top, 'image');
  mkdirSync(join(image, 'data/deep'), { recursive: true });
  writeFileSync(join(image, 'data/file'), '');
  writeFileSync(join(top, 'secret'), '');
});
afterEach(() => rmSync(top, { recursive: true }));

test('a path of the image, its links followed inside of it', () => {
  symlinkSync('/data/deep', join(image, 'link'));
  symlinkSync('../../../../../data/file', join(image, 'data/climber'));
  assert.equal(resolveImagePath(image, '', 'f'), image);
  assert.equal(resolveImagePath(image, 'data/deep', 'f'), join(image, 'data/deep'));
  assert.equal(resolveImagePath(image, 'link', 'f'), join(image, 'data/deep'));
  assert.equal(resolveImagePath(image, 'data/climber', 'f'), join(image, 'data/file'));
});

test('an image whose folder is named by a link', () => {
  symlinkSync(top, join(top, 'run'));
  assert.equal(resolveImagePath(join(top, 'run/image'), 'data', 'f'), join(image, 'data'));
});

test('what is not in the image is not found, whatever leads there', () => {
  symlinkSync(join(top, 'secret'), join(image, 'absolute'));
  symlinkSync('../secret', join(image, 'relative'));
  symlinkSync('loop', join(image, 'loop'));
  for (const path of ['absolute', 'relative', 'none', 'data/file/x', 'loop', '../secret', 'data/../../secret', 'a\0'])
    assert.throws(() => resolveImagePath(image, path, 'f'), { kind: 'invalid', message: /^f: / }, path);
});
