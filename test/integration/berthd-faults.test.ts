/** What goes wrong beside a request must not leave a wrong answer behind. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';
import Database from 'better-sqlite3';

import {
  ContainerState,
  NamespaceMode,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
/** The real plugin, until there is a file `no` beside it. */
const MOODY = `#!/bin/sh
touch "$0.used"
[ -e "$(dirname "$0")/no" ] || exec /usr/lib/cni/bridge
cat > /dev/null
echo '{"cniVersion":"1.0.0","code":99,"msg":"no"}'
exit 1
`;

/**
 * runc for which a pid changes hands: that in a file beside it. Its process is killed before a container is created, and
 * what the bundle says of it is then true of another one.
 */
const deadly = (victim: string): string => `#!/bin/sh
victim=${victim}
case "$*" in *" create "*) ;; *) exec runc "$@";; esac
[ -e "$victim" ] || exec runc "$@"
pid=$(cat "$victim")
kill -9 "$pid"
while grep -q '^State:.[^Z]*$' "/proc/$pid/status" 2>/dev/null; do sleep 0.01; done
bundle=$(echo "$*" | sed 's/.*--bundle[ =]\\([^ ]*\\).*/\\1/')
sed -i "s,/proc/$pid/ns/pid,/proc/$PPID/ns/pid," "$bundle/config.json"
exec runc "$@"
`;

suite('faults beside a request', { timeout: 900_000 }, () => {
  let lab: PodLab;
  let folder: string;
  const victim = (): string => join(folder, 'victim');
  const plugin = (): string => join(lab.berthd.plugins, 'bridge');

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-faults-'));
    writeFileSync(join(folder, 'deadly-runc'), deadly(victim()), { mode: 0o755 });
    lab = await PodLab.start({ config: `[runtime.handlers.deadly]\npath = "${join(folder, 'deadly-runc')}"` });
  });
  afterEach(async (t) => {
    rmSync(join(lab.berthd.plugins, 'no'), { force: true });
    await lab.afterTest(t);
  });
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true });
  });

  test('an exit that cannot be stored is stored later, and stops do not hang', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, script('while [ ! -e /dev/shm/end ]; do sleep 0.05; done; exit 7'));
    await lab.exec(id, 'touch', '/dev/shm/almost');
    const database = new Database(join(lab.berthd.root, 'berth.db'));
    database.exec('BEGIN IMMEDIATE');
    const { pid } = await lab.info(id);
    await lab.exec(id, 'touch', '/dev/shm/end').catch(() => undefined);
    await eventually('the program has ended', () => (isAlive(pid) ? undefined : true));
    await lab.berthd.call(runtime.version, { version: '' });
    database.exec('ROLLBACK');
    database.close();
    assert.equal((await lab.ended(id)).exitCode, 7);
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 1n });
  });

  test('a pod whose stop fails is not ready any more, and takes no container', async () => {
    writeFileSync(plugin(), MOODY, { mode: 0o755 });
    await eventually('the plugin is found', async () => {
      await lab.removePod(await lab.runPod());
      return existsSync(`${plugin()}.used`) ? true : undefined;
    });
    const pod = await lab.runPod();
    writeFileSync(join(lab.berthd.plugins, 'no'), '');
    await lab.berthd.fails(runtime.stopPodSandbox, { podSandboxId: pod });
    assert.equal((await lab.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
    assert.equal((await lab.refused(pod, {})).code, status.FAILED_PRECONDITION);
    rmSync(join(lab.berthd.plugins, 'no'));
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
  });

  test('a container that was created is not started in a pod that is stopped', async () => {
    const pod = await lab.runPod();
    const id = await lab.create(pod);
    const creating = lab.create(pod).catch(() => undefined);
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    const late = await creating;
    for (const containerId of [id, ...(late === undefined ? [] : [late])]) {
      await lab.berthd.fails(runtime.startContainer, { containerId });
      assert.equal((await lab.status(containerId)).state, ContainerState.CONTAINER_EXITED);
    }
  });

  test('a log path that is a folder is refused, and the log of another is kept', async () => {
    const config = lab.podConfig();
    const pod = await lab.runPod(config);
    mkdirSync(join(config.logDirectory, 'folder'), { recursive: true });
    const { code, details } = await lab.refused(pod, { logPath: 'folder' });
    assert.match(details, /config\.log_path/);
    assert.equal(code, status.INVALID_ARGUMENT);
    await lab.start(pod, { logPath: 'same.log', ...script('echo hi; sleep 1000') });
    const log = join(config.logDirectory, 'same.log');
    await eventually('a line', () => (existsSync(log) ? true : undefined));
    await lab.refused(pod, { logPath: 'same.log', command: ['/no/such'] });
    assert.ok(existsSync(log));
    const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
    assert.equal(containers.length, 1);
  });

  test('a container joins the processes of another one that is named in full, and only while that one runs', async () => {
    const joining = (targetId: string) => ({
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET, targetId } } },
    });
    lab.handler = 'deadly';
    try {
      const pod = await lab.runPod();
      const target = await lab.start(pod, script('exec sleep 1000'));
      const joined = await lab.start(pod, { ...script('exec sleep 1000'), ...joining(target) });
      assert.match(await lab.exec(joined, 'cat', '/proc/1/cmdline'), /sleep/);
      const part = await lab.refused(pod, joining(target.slice(0, 60)));
      assert.deepEqual([part.code, /target_id/.test(part.details)], [status.INVALID_ARGUMENT, true]);
      writeFileSync(victim(), String((await lab.info(target)).pid));
      const late = await lab.refused(pod, joining(target));
      assert.equal(late.code, status.FAILED_PRECONDITION);
      assert.match(late.details, /PID namespace/);
    } finally {
      rmSync(victim(), { force: true });
      lab.handler = '';
    }
  });

  test('a plugin that hangs keeps neither berthd from serving nor from stopping', async () => {
    const flag = `${plugin()}.runs`;
    writeFileSync(plugin(), `#!/bin/sh\n: > ${flag}\nexec sleep 1000\n`, { mode: 0o755 });
    const run = lab.runPod().catch(() => undefined);
    await eventually('the plugin runs', () => existsSync(flag) || undefined);
    await lab.berthd.end('SIGKILL');
    await run;
    const startedMs = performance.now();
    await lab.berthd.start();
    assert.ok(performance.now() - startedMs < SOON_MS);
    const stoppedMs = performance.now();
    await lab.berthd.end('SIGTERM');
    assert.ok(performance.now() - stoppedMs < SOON_MS);
    rmSync(flag);
    writeFileSync(plugin(), MOODY, { mode: 0o755 });
    await lab.berthd.start();
  });
});
