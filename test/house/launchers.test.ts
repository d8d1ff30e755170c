import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const programs: readonly [name: string, main: string][] = [
  ['berthd', 'dist/bundle/src/main.js'],
  ['berth', 'dist/bundle/src/cli.js'],
];

/** A checkout with the launchers, a `node` in its own PATH folder that claims a version, and nothing else. */
function checkout(t: TestContext, pathVersion: string): string {
  const root = mkdtempSync(join(tmpdir(), 'berth-launchers-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  cpSync(bin, join(root, 'bin'), { recursive: true });
  mkdirSync(join(root, 'path'));
  const pretender = `#!/bin/sh\nif [ "$1" = -p ]; then echo ${pathVersion}; else exec ${process.execPath} "$@"; fi\n`;
  writeFileSync(join(root, 'path/node'), pretender);
  chmodSync(join(root, 'path/node'), 0o755);
  return root;
}

/** Puts a program there that tells how it was run. */
function build(root: string, main: string): void {
  mkdirSync(join(root, main, '..'), { recursive: true });
  const told = '[process.argv.slice(2), process.env.NODE_COMPILE_CACHE]';
  writeFileSync(join(root, main), `process.stdout.write(JSON.stringify(${told}));\n`);
}

function run(root: string, program: string, args: readonly string[], env: Record<string, string> = {}) {
  const path = `${join(root, 'path')}:/usr/bin:/bin`;
  return spawnSync(program, args, { cwd: '/', env: { PATH: path, ...env }, encoding: 'utf8', timeout: 20_000 });
}

for (const [name, main] of programs) {
  test(`${name}: runs what was built, through symbolic links, with its arguments as they are`, (t) => {
    const root = checkout(t, '24.0.0');
    build(root, main);
    symlinkSync(join(root, 'bin', name), join(root, 'link'));
    const ran = run(root, join(root, 'link'), ['a b', '', '--x=*']);
    assert.equal(ran.stderr, '');
    assert.deepEqual(JSON.parse(ran.stdout), [['a b', '', '--x=*'], join(root, 'dist/.compile-cache')]);
  });

  test(`${name}: prefers BERTH_NODE, then its own Node, to the one in the PATH`, (t) => {
    const root = checkout(t, '20.20.2');
    build(root, main);
    assert.equal(run(root, join(root, 'bin', name), [], { BERTH_NODE: process.execPath }).status, 0);
    mkdirSync(join(root, 'node_modules/.bin'), { recursive: true });
    symlinkSync(process.execPath, join(root, 'node_modules/.bin/node'));
    assert.equal(run(root, join(root, 'bin', name), []).status, 0);
  });

  test(`${name}: says what to do when it cannot run`, (t) => {
    const root = checkout(t, '23.11.0');
    const program = join(root, 'bin', name);
    const refusals: readonly [env: Record<string, string>, says: RegExp][] = [
      [{}, /needs Node 24 or newer, and the PATH has 23\.11\.0; run in .*: npm run build, which brings one\n$/],
      [{ BERTH_NODE: '/nowhere/node' }, /BERTH_NODE is \/nowhere\/node, which cannot be run/],
      [{ BERTH_NODE: process.execPath }, /it is not built; run in .*: npm run build\n$/],
    ];
    for (const [env, says] of refusals) {
      const ran = run(root, program, [], env);
      assert.equal(ran.status, 1);
      assert.match(ran.stderr, says);
      assert.equal(ran.stderr.startsWith(`${name}: `), true);
    }
  });
}
