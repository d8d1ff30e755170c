import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { silentLogger } from '../base/log.ts';
import { SealedPrograms } from './sealed-programs.ts';

const isSelinuxOn = existsSync('/sys/fs/selinux/enforce');
const skip = isSelinuxOn && 'programs are not copied where SELinux is on';

let folder: string;
let program: string;
let programs: SealedPrograms;
let tried: PromiseWithResolvers<string>;
let exitCode: number;
/** What its run fails with. */
let failure: Error | undefined;
/** How often it is run while it is still open for writing. */
let busyRuns: number;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-sealed-'));
  program = join(folder, 'runtime');
  copyFileSync('/usr/bin/true', program);
  tried = Promise.withResolvers();
  exitCode = 0;
  failure = undefined;
  busyRuns = 0;
  const run: ConstructorParameters<typeof SealedPrograms>[0]['processes']['run'] = async ({ path, args }) => {
    if (busyRuns > 0) {
      busyRuns -= 1;
      const writer = openSync(path, 'r+');
      try {
        execFileSync(path, [...args]);
      } finally {
        closeSync(writer);
      }
    }
    execFileSync(path, [...args]);
    if (failure) {
      tried.resolve(path);
      throw failure;
    }
    // What waits for this answer goes on before whoever waits for the test's promise.
    void nextTurn().then(() => tried.resolve(path));
    const nothing = Buffer.alloc(0);
    return { exitCode, signal: undefined, stdout: nothing, stderr: nothing, truncated: false, durationMs: 0 };
  };
  programs = new SealedPrograms({ stateDir: folder, processes: { run }, log: silentLogger });
});

afterEach(async () => {
  await programs.close();
  rmSync(folder, { recursive: true });
});

function pathOf(copiesItself = true): string {
  return programs.pathOf({ path: program, copiesItself });
}

test('a program is started from its sealed copy as soon as that is there', { skip }, async () => {
  assert.equal(pathOf(), program);
  const link = await tried.promise;
  assert.equal(pathOf(), link);
  assert.equal(basename(link), 'runtime', 'the name that lists of processes show');
  assert.deepEqual(readFileSync(link), readFileSync(program));
  assert.throws(() => writeFileSync(link, 'x', { flag: 'r+' }), { code: 'EPERM' });
});

test('a copy that a container has made useless is made anew', { skip }, async () => {
  pathOf();
  const spoilt = await tried.promise;
  await nextTurn();
  assert.equal(pathOf(), spoilt);
  tried = Promise.withResolvers();
  chmodSync(spoilt, 0);
  assert.equal(pathOf(), program, 'it is not used any more');
  const link = await tried.promise;
  assert.notEqual(link, spoilt);
  assert.equal(pathOf(), link);
});

test('a container that makes each copy useless does not fill the memory with them', { skip }, async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const spoil = async (): Promise<void> => {
    tried = Promise.withResolvers();
    assert.equal(pathOf(), program);
    const copy = await tried.promise;
    assert.equal(pathOf(), copy);
    chmodSync(copy, 0);
  };
  for (let count = 0; count < 4; count++) await spoil();
  tried = Promise.withResolvers();
  assert.equal(pathOf(), program);
  assert.equal(readdirSync(join(folder, 'sealed')).length, 4, 'no fifth copy is made');
  t.mock.timers.tick(120_000);
  await spoil();
});

test('what failed for the moment is tried again a minute later', { skip }, async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  failure = new Error('too many open files');
  pathOf();
  await tried.promise;
  await nextTurn();
  failure = undefined;
  tried = Promise.withResolvers();
  assert.equal(pathOf(), program);
  t.mock.timers.tick(60_000);
  assert.equal(pathOf(), program);
  const link = await tried.promise;
  assert.equal(pathOf(), link);
});

test('a copy that a process on its start has still open for writing is tried again', { skip }, async () => {
  busyRuns = 2;
  pathOf();
  const link = await tried.promise;
  assert.equal(pathOf(), link);
  assert.equal(busyRuns, 0);
});

test('a program that does not copy itself is left as it is', () => {
  assert.equal(pathOf(false), program);
  assert.equal(existsSync(join(folder, 'sealed')), false);
});

test('a script is left as it is: it may look beside itself', () => {
  writeFileSync(program, '#!/bin/sh\n');
  assert.equal(pathOf(), program);
  assert.equal(existsSync(join(folder, 'sealed')), false);
});

test('a program that was replaced is copied anew', { skip }, async () => {
  pathOf();
  await tried.promise;
  tried = Promise.withResolvers();
  copyFileSync('/usr/bin/env', `${program}.new`);
  renameSync(`${program}.new`, program);
  assert.equal(pathOf(), program, 'the old copy is not used any more');
  const link = await tried.promise;
  assert.equal(pathOf(), link);
  assert.deepEqual(readFileSync(link), readFileSync('/usr/bin/env'));
});

test('a copy that does not run is not used', { skip }, async () => {
  exitCode = 1;
  pathOf();
  await tried.promise;
  await nextTurn();
  assert.equal(pathOf(), program);
});

test('nothing is left at the end', { skip }, async () => {
  pathOf();
  await tried.promise;
  await programs.close();
  assert.equal(existsSync(join(folder, 'sealed')), false);
  assert.equal(pathOf(), program);
});
