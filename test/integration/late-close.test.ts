/** What native/late-close.c does to the real iptables, in a network namespace of its own, and to other programs. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { buildLibrary, buildNative, buildNativeWith, hasCompiler } from '../fakes/build-native.ts';
import { eventually } from '../harness/cri-lab.ts';
import { holdNetns, inNetns, pidsInNetns, releaseNetns } from '../harness/held-netns.ts';

let folder: string;
let netns: string;
let library: string;
const skip = /nf_tables/.test(execFileSync('iptables', ['--version'], { encoding: 'utf8' }))
  ? false
  : 'iptables is the legacy one here, which has no such sockets';
const needsCompiler = hasCompiler ? false : 'there is no compiler here';

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

/** Runs a command in the namespace, with the library. Returns when it has ended and its output is read to its end. */
function run(command: readonly string[], preloaded = library): void {
  const { status, stdout, stderr } = spawnSync('nsenter', [`--net=${netns}`, ...command], {
    env: { PATH: process.env['PATH'], LD_PRELOAD: preloaded },
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

const DELETIONS: readonly (readonly string[])[] = [
  ['-D', 'LATE', '-j', 'ACCEPT'],
  ['--flush', 'LATE'],
  ['-X', 'LATE'],
  // So plugins make sure that there is a chain to delete.
  ['-N', 'LATE'],
  ['--delete-chain', 'LATE'],
];

for (const tool of ['iptables', 'ip6tables']) {
  const nat = [tool, '-t', 'nat'];
  const addition = [...nat, '-A', 'LATE', '-j', 'ACCEPT'];

  test(`${tool} that has deleted leaves its socket to another process, and nothing else`, {
    skip: skip || needsCompiler,
  }, () => {
    const keepsLong = buildNativeWith({ KEPT_MS: 60_000 }, 'late-close.so', join(folder, `long-${tool}.so`));
    inNetns(netns, [...nat, '-N', 'LATE']);
    for (const command of [addition, [...nat, '-S']]) run(command, keepsLong);
    assert.deepEqual(openThere(), [], 'one that has deleted nothing closes it itself');
    for (const deletion of DELETIONS) {
      run([...nat, ...deletion], keepsLong);
      try {
        assert.deepEqual(openThere(), [['socket:[N]']]);
      } finally {
        for (const pid of pidsInNetns(netns)) process.kill(pid, 'SIGKILL');
      }
    }
  });

  test(`what ${tool} has left open is closed when the kernel has done its part`, { skip }, async () => {
    inNetns(netns, [...nat, '-N', 'LATE']);
    inNetns(netns, addition);
    for (const deletion of DELETIONS) {
      const began = performance.now();
      run([...nat, ...deletion]);
      await eventually('it is closed', () => pidsInNetns(netns).length === 0 || undefined);
      assert.ok(performance.now() - began >= 250, 'and not before');
    }
    assert.doesNotMatch(inNetns(netns, [...nat, '-S']), /LATE/);
  });
}

test('a program that has loaded libmnl for itself closes its sockets as ever', { skip: needsCompiler }, () => {
  const source = `
    struct mnl_socket;
    struct mnl_socket *mnl_socket_open(int bus);
    int mnl_socket_get_fd(const struct mnl_socket *socket);
    int mnl_socket_close(struct mnl_socket *socket);
    int fcntl(int fd, int command, ...);

    int closes(void)
    {
      struct mnl_socket *socket = mnl_socket_open(0);
      int fd = mnl_socket_get_fd(socket);

      return mnl_socket_close(socket) == 0 && fcntl(fd, 1) == -1;
    }`;
  const user = buildLibrary(source, ['libmnl.so.0'], join(folder, 'user.so'));
  // As plugins of programs are loaded (RTLD_LOCAL): what they are linked with is not found from elsewhere.
  const script = `process.exit(require('koffi').load(process.argv[1]).func('int closes()')() === 1 ? 0 : 1)`;
  const result = spawnSync(process.execPath, ['-e', script, user], { env: { LD_PRELOAD: library }, encoding: 'utf8' });
  assert.deepEqual([result.status, result.signal, result.stderr], [0, null, '']);
});

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
