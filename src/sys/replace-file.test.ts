import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { isErrno } from './errno.ts';
import { replaceFile } from './replace-file.ts';

test('a file takes the name of another, or one that nothing has', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-replace-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const [draft, final] = [join(dir, 'draft'), join(dir, 'final')];
  for (const text of ['first', 'second', 'third']) {
    writeFileSync(draft, text);
    replaceFile(draft, final);
    assert.equal(readFileSync(final, 'utf8'), text);
    assert.deepEqual(readdirSync(dir), ['final']);
  }
  assert.throws(
    () => replaceFile(draft, final),
    (err) => isErrno(err, 'ENOENT'),
  );
  assert.equal(readFileSync(final, 'utf8'), 'third');
});
