/** `berth doctor`, with a berthd and without: what is found, what is mended, and that pods go on. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { PodLab } from '../harness/pod-lab.ts';

const BERTH = join(import.meta.dirname, '../../bin/berth');

interface Answer {
  readonly berthdRuns: boolean;
  readonly findings: readonly {
    readonly severity: string;
    readonly subject: string;
    readonly message: string;
    readonly remedy: string;
    readonly canMend: boolean;
    readonly mended: string;
  }[];
}

suite('berth doctor', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  const doctor = (...args: string[]): Answer & { exitCode: number | null; subjects: string[] } => {
    const config = ['--config', join(lab.berthd.root, 'berth.toml')];
    const all = ['--json', '--socket', lab.berthd.endpoint, 'doctor', ...config, ...args];
    const { status, stdout, stderr } = spawnSync(BERTH, all, { encoding: 'utf8', timeout: 100_000 });
    assert.notEqual(stdout, '', stderr);
    const answer = JSON.parse(stdout) as Answer;
    const subjects = answer.findings.filter(({ severity }) => severity === 'error').map(({ subject }) => subject);
    return { ...answer, exitCode: status, subjects };
  };
  /** 2 where this machine has only warnings, 0 where it has none. */
  const fine = ({ findings }: Answer): number => (findings.some(({ severity }) => severity === 'warning') ? 2 : 0);

  test('a running berthd finds what is broken, mends what is safe, and pods go on', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const sound = doctor();
    assert.deepEqual([sound.berthdRuns, sound.subjects, sound.exitCode], [true, [], fine(sound)]);
    const bundle = join(lab.berthd.state, 'containers', id, 'config.json');
    renameSync(bundle, `${bundle}.away`);
    const exits = join(lab.berthd.state, 'exits');
    chmodSync(exits, 0o755);
    const broken = doctor('--fix');
    assert.deepEqual([broken.subjects, broken.exitCode], [[`container ${id}`], 1]);
    const mended = broken.findings.filter((finding) => finding.mended !== '');
    assert.deepEqual(
      mended.map(({ subject, mended: outcome }) => [subject, outcome]),
      [[exits, 'done']],
    );
    assert.equal(statSync(exits).mode & 0o777, 0o700);
    for (const { severity, subject, remedy } of broken.findings)
      if (severity !== 'info') assert.notEqual(remedy, '', subject);
    renameSync(`${bundle}.away`, bundle);
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
  });

  test('without a berthd: a damaged database is told, and mended so that all pods are known', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    await lab.berthd.end('SIGTERM');
    const sound = doctor();
    assert.deepEqual([sound.berthdRuns, sound.subjects, sound.exitCode], [false, [], fine(sound)]);
    const config = join(lab.berthd.root, 'berth.toml');
    const told = spawnSync(BERTH, ['--socket', lab.berthd.endpoint, 'doctor', '--config', config], {
      encoding: 'utf8',
    });
    assert.ok(told.stdout.startsWith('no berthd answers') && told.stdout.includes(`with ${config}\n`), told.stdout);
    const file = join(lab.berthd.root, 'berth.db');
    const bytes = readFileSync(file);
    bytes[3] = (bytes[3] ?? 0) ^ 0x20;
    writeFileSync(file, bytes);
    const broken = doctor();
    assert.deepEqual([broken.subjects, broken.exitCode], [[`database ${file}`], 1]);
    const { findings } = doctor('--fix');
    assert.equal(findings.find(({ subject }) => subject === `database ${file}`)?.mended, 'done');
    const after = doctor();
    assert.deepEqual([after.subjects, after.exitCode], [[], fine(after)]);
    assert.ok(after.findings.some(({ subject }) => subject === `databases in ${lab.berthd.root}`));
    await lab.berthd.start();
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
    await lab.removePod(pod);
  });
});
