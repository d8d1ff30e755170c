import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { TestBerthd } from '../harness/berthd.ts';
import { eventually } from '../harness/cri-lab.ts';
import { NotifySocket } from '../harness/notify-socket.ts';

const TOP = fileURLToPath(new URL('../..', import.meta.url));
const UNIT = join(TOP, 'deploy/berthd.service');
/** Berthd asks itself every third of it, and has a quarter of it for the answer. */
const WATCHDOG_MS = 6000;

/** The values of a directive of the unit. */
function directive(name: string): string[] {
  return [...readFileSync(UNIT, 'utf8').matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value);
}

suite('the unit', () => {
  test('systemd finds nothing to say against it', (t) => {
    const found = spawnSync('systemd-analyze', ['--version']);
    if (found.error) return t.skip('there is no systemd-analyze');
    const folder = mkdtempSync(join(tmpdir(), 'berth-unit-'));
    try {
      const file = join(folder, 'berthd.service');
      writeFileSync(file, readFileSync(UNIT, 'utf8').replaceAll('/opt/berth/', TOP));
      const verified = spawnSync('systemd-analyze', ['verify', '--man=no', file], {
        encoding: 'utf8',
        timeout: 60_000,
      });
      assert.equal(verified.stderr + verified.stdout, '');
      assert.equal(verified.status, 0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('it gives berthd no mount namespace, and containers nothing to inherit that takes from them', () => {
    const text = readFileSync(UNIT, 'utf8').replace(/^#.*$/gm, '');
    const harmful =
      /^(NoNewPrivileges|CapabilityBoundingSet|SystemCall\w+|Restrict\w+|LockPersonality|MemoryDeny\w+|Protect\w+|Private\w+|\w+Paths|MountFlags|RootDirectory|DynamicUser|User|IPAddress\w+|Device\w+)=/m;
    assert.doesNotMatch(text, harmful);
    assert.deepEqual(directive('KillMode'), ['process']);
    assert.deepEqual(directive('RuntimeDirectoryPreserve'), ['yes']);
    assert.deepEqual(directive('OOMPolicy'), ['continue']);
  });
});

suite('berthd under a service manager', () => {
  let folder: string;
  let socket: NotifySocket;
  let berthd: TestBerthd;

  before(async () => {
    folder = mkdtempSync('/run/berth-notify-');
    socket = new NotifySocket(join(folder, 'notify'));
    const environment = { NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: String(WATCHDOG_MS * 1000) };
    berthd = new TestBerthd({ environment });
    await berthd.start();
  });

  after(async () => {
    await berthd[Symbol.asyncDispose]();
    socket[Symbol.dispose]();
    rmSync(folder, { recursive: true });
  });

  test('says when it serves, and where', async () => {
    assert.equal(
      await socket.next('READY=1'),
      `READY=1\nSTATUS=serves on ${berthd.endpoint}; pods: 0 ready, containers: 0 running`,
    );
  });

  test('feeds the watchdog in time', async () => {
    for (let beats = 0; beats < 3; beats++) await socket.next('WATCHDOG=1', WATCHDOG_MS);
  });

  test('says when it has reloaded, and why it has not', async () => {
    const file = join(berthd.root, 'berth.toml');
    const good = readFileSync(file, 'utf8');
    process.kill(berthd.pid, 'SIGHUP');
    assert.match(await socket.next('RELOADING=1'), /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    await socket.next('READY=1');
    appendFileSync(file, 'nonsense = true\n');
    process.kill(berthd.pid, 'SIGHUP');
    await socket.next('RELOADING=1');
    assert.match(await socket.next('READY=1'), /STATUS=serves .*; configuration not reloaded: .*nonsense/);
    writeFileSync(file, good);
    process.kill(berthd.pid, 'SIGHUP');
    await socket.next('RELOADING=1');
    assert.doesNotMatch(await socket.next('READY=1'), /not reloaded/);
  });

  test('does not feed it while its event loop stands still', async () => {
    process.kill(berthd.pid, 'SIGSTOP');
    try {
      await eventually(
        'it stands still',
        () => /^State:\s+T/m.test(readFileSync(`/proc/${berthd.pid}/status`, 'utf8')) || undefined,
      );
      socket.drain();
      await assert.rejects(socket.next('WATCHDOG=1', WATCHDOG_MS), /no state/);
    } finally {
      process.kill(berthd.pid, 'SIGCONT');
    }
    await socket.next('WATCHDOG=1');
  });

  test('does not feed it while nobody could reach its socket', async () => {
    const path = berthd.endpoint.replace('unix://', '');
    renameSync(path, `${path}.aside`);
    socket.drain();
    // A check that was under way may still feed it once.
    await socket.next('WATCHDOG=1', WATCHDOG_MS / 2).catch(() => {});
    await assert.rejects(socket.next('WATCHDOG=1', WATCHDOG_MS), /no state/);
    assert.match(berthd.wholeLog(), /"level":"error".*berthd asks itself|"level":"error".*no answer to a Version call/);
    renameSync(`${path}.aside`, path);
    await socket.next('WATCHDOG=1');
  });

  test('says when it stops, and ends although a client does not react', { timeout: 900_000 }, async () => {
    const client = connect(berthd.endpoint.replace('unix://', ''));
    await once(client, 'connect');
    // The client's preface and empty settings (RFC 9113, section 3.4); then it never reads what it is told.
    client.write(
      Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.from('000000040000000000', 'hex')]),
    );
    await once(client, 'readable');
    await berthd.end('SIGTERM');
    assert.match(await socket.next('STOPPING=1'), /STATUS=stops; pods go on/);
    client.destroy();
  });
});
