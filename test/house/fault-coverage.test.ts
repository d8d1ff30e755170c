import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { listPipelines } from '../../src/pod/pipelines.ts';

test('faults are tried on every pipeline', () => {
  const folder = fileURLToPath(new URL('../integration', import.meta.url));
  const texts = globSync('faults-*.test.ts', { cwd: folder }).map((file) => readFileSync(`${folder}/${file}`, 'utf8'));
  const tried = texts.flatMap((text) => [...text.matchAll(/pipelines: \[([^\]]*)\]/g)].map(([, names = '']) => names));
  const missing = listPipelines().filter(({ name }) => !tried.some((names) => names.includes(`'${name}'`)));
  assert.deepEqual(
    missing.map(({ name }) => name),
    [],
  );
});
