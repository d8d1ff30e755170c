import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/** A small house in which each module breaks the rule that it is listed with; the others break none. */
const broken: readonly [file: string, imports: readonly string[], rules: readonly string[]][] = [
  ['src/main.ts', ['./pod/pod.ts', './daemon/log.ts'], []],
  ['src/daemon/log.ts', ['../pod/pod.ts', 'pino', 'commander'], []],
  ['src/base/log.ts', ['node:util'], []],
  ['src/pod/pod.ts', ['../store/fine.ts', '../base/log.ts'], []],
  ['src/store/fine.ts', ['better-sqlite3', '../base/log.ts'], []],
  ['src/proc/spawns.ts', ['../sys/fine.ts'], []],
  ['src/sys/fine.ts', ['koffi', '../base/log.ts'], []],
  ['src/server/serves.ts', ['@grpc/grpc-js', '../../proto/gen/cri/api.ts', '../pod/pod.ts'], []],
  ['src/proc/fine.test.ts', ['node:child_process', 'fast-check', '../../test/fakes/fake.ts'], []],
  ['proto/gen/cri/api.ts', ['@bufbuild/protobuf'], []],
  ['test/fakes/fake.ts', ['../../src/base/log.ts'], []],

  ['src/pod/upward.ts', ['../server/serves.ts'], ['pod-imports-downward']],
  ['src/image/sideways.ts', ['../cni/fine.ts'], ['image-imports-downward']],
  ['src/cni/fine.ts', ['../base/log.ts'], []],
  ['src/sys/sideways.ts', ['../proc/spawns.ts'], ['sys-imports-downward']],
  ['src/metrics/sideways.ts', ['../server/serves.ts'], ['metrics-imports-downward']],
  ['src/config/sideways.test.ts', ['../store/fine.ts'], ['config-imports-downward']],
  ['src/cli/state.ts', ['../store/fine.ts'], ['cli-holds-no-state']],
  ['src/pod/ffi.ts', ['koffi'], ['koffi-in-its-room']],
  ['src/image/sql.ts', ['better-sqlite3'], ['better-sqlite3-in-its-room']],
  ['src/store/sql.ts', ['node:sqlite'], ['sql-in-store']],
  ['src/pod/grpc.ts', ['@grpc/grpc-js'], ['grpc-in-its-room']],
  ['src/pod/proto.ts', ['../../proto/gen/cri/api.ts'], ['proto-types-in-server']],
  ['src/proc/node-spawn.ts', ['node:child_process'], ['processes-start-in-proc']],
  ['src/base/package.ts', ['valibot'], ['base-needs-no-package']],
  ['src/runtime/shipped.ts', ['fast-check'], ['no-development-packages-in-the-program']],
  ['src/runtime/fake.ts', ['../../test/fakes/fake.ts'], ['no-tests-in-the-program']],
  ['src/attic/old.ts', ['../base/log.ts'], ['known-rooms-only']],
  ['test/top.ts', ['../src/main.ts'], ['nothing-imports-main']],
  ['src/runtime/nowhere.ts', ['./nothing.ts'], ['resolvable']],
  ['src/runtime/orphan.ts', [], ['no-orphans']],
  ['src/store/cycle-a.ts', ['./cycle-b.ts'], ['no-cycles']],
  ['src/store/cycle-b.ts', ['./cycle-a.ts'], []],
];

interface Report {
  summary: { violations: { from: string; rule: { name: string } }[]; totalCruised: number };
}

test('every layer rule fails on an import that breaks it, and on no other', (t) => {
  const house = mkdtempSync(join(tmpdir(), 'berth-layers-'));
  t.after(() => rmSync(house, { recursive: true, force: true }));
  for (const file of ['package.json', 'tsconfig.json', '.dependency-cruiser.cjs']) {
    cpSync(join(repository, file), join(house, file));
  }
  symlinkSync(join(repository, 'node_modules'), join(house, 'node_modules'));
  for (const [file, imports] of broken) {
    mkdirSync(join(house, dirname(file)), { recursive: true });
    writeFileSync(join(house, file), `${imports.map((from) => `import '${from}';`).join('\n')}\nexport const x = 1;\n`);
  }

  const run = spawnSync(
    process.execPath,
    [
      join(repository, 'node_modules/.bin/depcruise'),
      ...['--config', '.dependency-cruiser.cjs', '--output-type', 'json', 'src', 'proto', 'test'],
    ],
    { cwd: house, encoding: 'utf8', maxBuffer: 64 << 20, timeout: 60_000 },
  );
  assert.equal(run.stderr, '');
  const report: Report = JSON.parse(run.stdout);
  const found = report.summary.violations.map(({ from, rule }) => `${from}: ${rule.name}`);
  const expected = broken.flatMap(([file, , rules]) => rules.map((rule) => `${file}: ${rule}`));
  assert.deepEqual([...new Set(found)].sort(), expected.sort());
});
