import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { CALLS } from '../../bench/measure/lifecycle.ts';
import { drawPlots } from '../../bench/measure/plots.ts';
import type { Results } from '../../bench/measure/results.ts';

const bench = fileURLToPath(new URL('../../bench/pods.ts', import.meta.url));
const few = [
  '--lifecycles',
  '3',
  '--rounds',
  '2',
  '--idle',
  '1',
  '--settle',
  '1',
  '--standing',
  '2,3',
  '--rest',
  '2',
  '--stream',
  '20',
];

test('the bench measures a berthd and leaves nothing behind', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-bench-smoke-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'figures.json');

  // It fails by itself when something is left on the machine.
  const args = [bench, ...few, '--parallel', '1,2', '--json', file];
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args);

  const results: Results = JSON.parse(readFileSync(file, 'utf8'));
  assert.deepEqual(
    results.endpoints.map(({ name, levels }) => [name, levels.map(({ parallel }) => parallel)]),
    [['berth', [1, 2]]],
  );
  for (const level of results.endpoints[0]?.levels ?? []) {
    for (const name of [...CALLS, 'pod up', 'pod down']) {
      const figures = level.calls[name];
      assert.ok(figures, `${name} is measured`);
      assert.equal(figures.count, 3, name);
      assert.ok(0 < figures.min && figures.min <= figures.p50 && figures.p50 <= figures.p99, name);
      assert.ok(figures.p99 < 30_000, `${name} takes ${figures.p99} ms`);
    }
    const parts = CALLS.slice(0, 3).map((name) => level.calls[name]?.min ?? 0);
    assert.ok((level.calls['pod up']?.min ?? 0) >= parts.reduce((sum, part) => sum + part), 'pod up is a sum');
    assert.ok(level.lifecyclesPerSecond > 0);
    assert.ok(level.clientMsPerLifecycle > 0);
  }
  const [berth] = results.endpoints;
  for (const { bytes = 0, anonymousBytes = 0 } of [berth?.memoryAfter ?? {}, berth?.memoryRested ?? {}])
    assert.ok(20e6 < anonymousBytes && anonymousBytes < bytes && bytes < 400e6, `berthd holds ${bytes} bytes`);
  assert.ok((results.floors?.create.min ?? 0) > 0 && (results.floors?.cniAdd.min ?? 0) > 0);
  for (const kind of ['exec', 'portForward'] as const) assert.ok((berth?.streams?.[kind].bytesPerSecond ?? 0) > 1e6);
  assert.deepEqual(
    berth?.standing.map(({ pods }) => pods),
    [2, 3],
  );
  for (const { pods, calls, oldestFigureMs, bytesPerPod, restShare, emptyStartMs, startMs } of berth?.standing ?? []) {
    for (const [name, { count }] of Object.entries(calls)) assert.ok(count > 0, name);
    assert.ok(oldestFigureMs !== undefined && oldestFigureMs < 10_000, `figures are ${oldestFigureMs} ms old`);
    assert.ok(bytesPerPod !== undefined && bytesPerPod > 0 && bytesPerPod < 20e6, `${bytesPerPod} bytes for each pod`);
    assert.ok(restShare !== undefined && restShare >= 0 && restShare < 1, `${restShare} of a processor at rest`);
    for (const ms of [emptyStartMs, startMs]) assert.ok(ms !== undefined && ms > 0, `a start with ${pods} pods`);
  }
  assert.equal(results.loop?.parallel, 2);
  assert.ok(results.loop.holdUpMs <= results.loop.lateMs);
  assert.match(stdout, /^### Targets$/m);
  assert.match(stdout, /^\| pod up \|( +[\d.]+ \|){3}$/m);
  const kept = /figures written to (.*)\.\{json,md,svg\}/.exec(stderr)?.[1] ?? '';
  t.after(() => {
    for (const kind of ['json', 'md', 'svg']) rmSync(`${kept}.${kind}`);
  });
  assert.equal(readFileSync(`${kept}.svg`, 'utf8'), drawPlots(results));
  assert.equal(`\n${readFileSync(`${kept}.md`, 'utf8')}`, stdout);
  assert.match(stdout, /^\| berth \(berth \d/m);
});

test('the bench takes its pods down when it is interrupted', async () => {
  const labsBefore = labs();
  const child = spawn(process.execPath, [bench, '--lifecycles', '1000', '--parallel', '2', '--idle', '1'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = once(child, 'exit');
  const lines: string[] = [];
  const reader = createInterface({ input: child.stderr });
  reader.on('line', (line) => {
    lines.push(line);
    if (/round 1 of/.test(line)) child.kill('SIGINT');
  });
  const [code]: unknown[] = await exited;

  assert.equal(code, 1);
  const said = lines.filter(
    (line) => !/making|starting|measuring|1000 pods|warming up|round 1 of/.test(line) && line !== '',
  );
  assert.deepEqual(said, ['bench: SIGINT: taking pods down', 'bench: stopped by SIGINT']);
  assert.deepEqual(labs(), labsBefore);
});

/** The state folders of benches; one that was killed may have left its own. */
function labs(): string[] {
  return readdirSync('/run').filter((name) => name.startsWith('berth-bench-'));
}
