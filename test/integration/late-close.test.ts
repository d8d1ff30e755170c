/** What native/late-close.c does to the real iptables, in a network namespace of its own, and to other programs. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { buildNative } from '../fakes/build-native.ts';
import { eventually } from '../harness/cri-lab.ts';
import { holdNetns, inNetns, pidsInNetns, releaseNetns } from '../harness/held-netns.ts';

let folder: string;
let netns: string;
let library: string;
const skip = /nf_tables/.test(execFileSync('iptables', ['--version'], { encoding: 'utf8' }))
  ? false
  : 'iptables is the legacy one here, which has no such sockets';

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-late-close-'));
  library = buildNative('late-close.so', folder);
  netns = join(folder, 'netns');
  holdNetns(netns);
});
after(() => {
  releaseNetns(netns);
  rmSync(folder, { recursive: true });
});

/** Runs a command in the namespace, with the library. Resolves when it has ended and its output is read to its end. */
function run(...command: readonly string[]): void {
  const { status, stdout, stderr } = spawnSync('nsenter', [`--net=${netns}`, ...command], {
    env: { PATH: process.env['PATH'], LD_PRELOAD: library },
    encoding: 'utf8',
  });
  assert.deepEqual([status, stderr], [0, ''], `${command.join(' ')}: ${stdout}`);
}

/** What the processes in the namespace have open. */
function openThere(): string[][] {
  return pidsInNetns(netns).map((pid) =>
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\d+/, 'N')];
      } catch {
        // The folder was open when it was read.
        return [];
      }
    }),
  );
}

for (const tool of ['iptables', 'ip6tables']) {
  test(`${tool} that has deleted leaves its socket to another process, and that soon ends`, { skip }, async () => {
    run(tool, '-t', 'nat', '-N', 'LATE');
    run(tool, '-t', 'nat', '-A', 'LATE', '-j', 'ACCEPT');
    run(tool, '-t', 'nat', '-S');
    assert.deepEqual(openThere(), [], 'one that has deleted nothing closes it itself');
    for (const deletion of [
      ['-D', 'LATE', '-j', 'ACCEPT'],
      ['--flush', 'LATE'],
      ['-X', 'LATE'],
    ]) {
      run(tool, '-t', 'nat', ...deletion);
      assert.deepEqual(openThere(), [['socket:[N]']]);
      await eventually('it has ended', () => pidsInNetns(netns).length === 0 || undefined);
    }
    assert.doesNotMatch(inNetns(netns, [tool, '-t', 'nat', '-S']), /LATE/);
  });
}

test('an iptables that fails says so as ever', { skip }, () => {
  const command = ['iptables', '-t', 'nat', '-D', 'POSTROUTING', '-j', 'NO_SUCH_CHAIN'];
  const failure = (env: NodeJS.ProcessEnv): unknown => {
    const { status, stdout, stderr } = spawnSync('nsenter', [`--net=${netns}`, ...command], { env, encoding: 'utf8' });
    return { status, stdout, stderr };
  };
  const { PATH } = process.env;
  assert.deepEqual(failure({ PATH, LD_PRELOAD: library }), failure({ PATH }));
});

test('programs that know nothing of packet filters run as ever', () => {
  for (const env of [{}, { LD_BIND_NOW: '1' }]) {
    const options = { env: { ...env, PATH: process.env['PATH'], LD_PRELOAD: library }, encoding: 'utf8' } as const;
    const { status, stdout, stderr } = spawnSync('sh', ['-c', 'echo out; exec cat /proc/self/comm'], options);
    assert.deepEqual([status, stdout, stderr], [0, 'out\ncat\n', '']);
  }
});
