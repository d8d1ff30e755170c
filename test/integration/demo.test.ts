import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { findCrictl } from '../harness/crictl.ts';
import { assertNothingLeft, readMachineState } from '../harness/machine-state.ts';

const top = fileURLToPath(new URL('../..', import.meta.url));
/** Another demo than the one that a person may have up. */
const NAME = 'berth-demotest';
const ROOT = `/var/lib/${NAME}`;
const STATE = `/run/${NAME}`;
const PAGE = 'Hello from a pod that Berth runs.\n';
const FORWARDING = '/proc/sys/net/ipv4/ip_forward';
/** Set where other programs make pods at the same time: then only what bears the demo's own names is looked for. */
const IS_SHARED = process.env['BERTH_TEST_SHARED_MACHINE'] !== undefined;

interface Ran {
  readonly exitCode: number;
  readonly said: string;
}

/** Runs what `npm run up` or `npm run down` runs, after all is built. */
async function demo(which: 'up' | 'down'): Promise<Ran> {
  const env = { ...process.env, BERTH_DEMO: NAME };
  try {
    const script = `${top}scripts/demo/${which}.ts`;
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [script], { env, timeout: 120_000 });
    return { exitCode: 0, said: stdout + stderr };
  } catch (err) {
    const { code, stdout, stderr } = err as { code?: unknown; stdout: string; stderr: string };
    return { exitCode: Number(code), said: stdout + stderr };
  }
}

async function up(): Promise<string> {
  const { exitCode, said } = await demo('up');
  assert.equal(exitCode, 0, said);
  return said;
}

async function down(): Promise<string> {
  const { exitCode, said } = await demo('down');
  assert.equal(exitCode, 0, said);
  assert.match(said, /^Nothing of the demo is left\.$/m);
  assert.deepEqual([ROOT, STATE].filter(existsSync), []);
  return said;
}

function berth(...args: string[]): Promise<{ stdout: string }> {
  return promisify(execFile)(`${top}bin/berth`, ['--socket', `unix://${STATE}/berth.sock`, ...args]);
}

async function podId(): Promise<string> {
  const pods = JSON.parse((await berth('--json', 'pods')).stdout) as { id: string }[];
  assert.equal(pods.length, 1);
  return pods[0]?.id ?? '';
}

async function containerId(): Promise<string> {
  const containers = JSON.parse((await berth('--json', 'ps')).stdout) as { id: string }[];
  return containers[0]?.id ?? '';
}

/** The addresses that `up` tells people to try. */
function addresses(said: string): string[] {
  return [...said.matchAll(/curl (http:\S+)/g)].map((match) => match[1] ?? '');
}

async function assertPages(said: string): Promise<void> {
  const urls = addresses(said);
  assert.equal(urls.length, 2, said);
  for (const url of urls) assert.equal(await (await fetch(url)).text(), PAGE, url);
}

/** README.md's commands for crictl, to be run with all they write below `work`. */
function readmeCommands(work: string): string {
  const text = readFileSync(`${top}README.md`, 'utf8');
  const block = text.match(/(?:^ {4}.*\n)+/gm)?.find((indented) => indented.includes('crictl runp pod.json'));
  assert.ok(block, 'README.md shows how crictl runs a pod');
  assert.ok(block.includes('/run/berth-demo/') && block.includes('/tmp/mine-logs'));
  return block.replaceAll(/^ {4}/gm, '').replaceAll('/run/berth-demo/', `${STATE}/`).replaceAll('/tmp/mine-logs', work);
}

function killBerthd(): void {
  const pid = Number(readFileSync(`${ROOT}/berthd.pid`, 'utf8'));
  assert.ok(pid > 1, 'berthd.pid names the process that holds the root folder');
  process.kill(pid, 'SIGKILL');
}

suite('the demo', { timeout: 900_000 }, () => {
  const machine = readMachineState();
  const forwarding = readFileSync(FORWARDING, 'utf8');
  const logs = (): string[] => (existsSync('/var/log/berth') ? readdirSync('/var/log/berth') : []);
  const logsBefore = logs();
  const ids: string[] = [];
  const bringUp = async (): Promise<string> => {
    const said = await up();
    ids.push(await podId(), await containerId());
    return said;
  };
  const assertClean = async (): Promise<void> =>
    await assertNothingLeft(machine, IS_SHARED ? [NAME, ...ids] : undefined);

  before(() => demo('down'));
  after(async () => {
    await demo('down');
    await assertClean();
    assert.equal(readFileSync(FORWARDING, 'utf8'), forwarding);
    assert.deepEqual(
      logs().filter((name) => name.startsWith('web-') && !logsBefore.includes(name)),
      [],
    );
  });

  test('comes up with a page, says so when it is up already, and goes', async () => {
    const said = await bringUp();
    for (const step of [/^✓ +\d+ ms {2}start berthd/m, /^✓ +\d+ ms {2}run a pod/m, /ms {2}RunPodSandbox$/m]) {
      assert.match(said, step);
    }
    assert.doesNotMatch(said, /\u001b/, 'no colours where there is no terminal');
    await assertPages(said);
    const pod = await podId();
    const again = await up();
    assert.match(again, /^The demo is up already\.$/m);
    assert.deepEqual(addresses(again), addresses(said));
    assert.equal(await podId(), pod);
    assert.match((await berth('exec', 'web', '--', 'hostname')).stdout, /^web$/m);
    assert.match(await down(), /^✓ .*remove pods: 1$/m);
    assert.match((await demo('down')).said, /^There is no demo on this machine\.$/m);
  });

  const crictl = findCrictl();
  const skip = 'missing' in crictl ? crictl.missing : false;
  test("shows the README's own pod through crictl", { skip }, async () => {
    await bringUp();
    const work = mkdtempSync(join(tmpdir(), 'berth-readme-'));
    try {
      const path = 'path' in crictl ? dirname(crictl.path) : '';
      writeFileSync(join(work, 'commands'), readmeCommands(work));
      // On a terminal, as a person would: the shell in the container wants one.
      const onTerminal = ['--quiet', '--return', '--command', 'sh -eux commands', '/dev/null'];
      const shown = promisify(execFile)('script', onTerminal, {
        cwd: work,
        env: { ...process.env, PATH: `${path}:${process.env['PATH']}` },
        timeout: 120_000,
      });
      shown.child.stdin?.write('hostname\nexit\n');
      const said = (await shown).stdout.replaceAll('\r', '');
      assert.match(said, /berth\.example\/web:demo .*Running +shell .* mine +default$/m);
      assert.match(said, /^mine$/m, 'hostname in the pod');
      assert.match(said, /^Removed sandbox [0-9a-f]{64}$/m);
    } finally {
      rmSync(work, { recursive: true });
    }
    await down();
  });

  test('goes on with the same pod when berthd was killed, and goes when it was killed again', async () => {
    const said = await bringUp();
    const pod = await podId();
    killBerthd();
    await assertPages(said);
    assert.match(await up(), /going on from what is there/);
    assert.equal(await podId(), pod);
    killBerthd();
    assert.match(await down(), /^✓ .*start berthd again, to clean up$/m);
  });

  test('goes without berthd, when that cannot start any more', async () => {
    await bringUp();
    killBerthd();
    appendFileSync(`${ROOT}/berth.toml`, 'no_such_key = 1\n');
    const said = await down();
    assert.match(said, /^✗ .*start berthd again, to clean up$/m);
    assert.match(said, /no_such_key/, 'the end of the log tells why');
    await assertClean();
  });

  test('goes when its configuration and database are gone', async () => {
    await bringUp();
    killBerthd();
    for (const name of ['berth.toml', 'berth.db', 'berth.db-wal', 'berth.db-shm'])
      rmSync(`${ROOT}/${name}`, { force: true });
    await down();
    await assertClean();
  });

  test('says which step failed and how berthd ended, and can be taken away then', async () => {
    await bringUp();
    killBerthd();
    appendFileSync(`${ROOT}/berth.toml`, 'no_such_key = 1\n');
    const { exitCode, said } = await demo('up');
    assert.equal(exitCode, 1, said);
    assert.match(said, /^✗ +start berthd$/m);
    assert.match(said, /^up: berthd does not serve: it has ended with exit code 1$/m);
    assert.match(said, /no_such_key/);
    assert.match(said, /npm run down takes it away/);
    await down();
  });
});
