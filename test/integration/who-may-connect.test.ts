/** Who may connect, read and write: root alone. And what a container takes too much of, it takes from itself. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import {
  ExecRequest,
  ImageServiceService as images,
  ListContainersRequest,
  PullImageRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

/** What the harness keeps in the root folder for itself. */
const HARNESS = ['net.d', 'plugins', 'berth.toml', 'berthd.log', 'logs', 'addresses'];
const PASSWORD = 'pa55-of-a-registry';
const VARIABLE = 's3cret-of-a-container';
const CGROUPS = '/sys/fs/cgroup';
const IS_V2 = existsSync(join(CGROUPS, 'cgroup.controllers'));

const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });

suite('who may connect', { timeout: patient(900_000) }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  test('the socket is for root and its group', () => {
    const { mode, uid, gid } = statSync(lab.berthd.endpoint.replace('unix://', ''));
    assert.deepEqual([(mode & 0o7777).toString(8), uid, gid], ['660', 0, 0]);
  });

  test('a folder in which others may write gets no socket', async () => {
    const open = mkdtempSync('/run/berth-open-');
    chmodSync(open, 0o777);
    const other = { root: mkdtempSync('/run/berth-open-root-'), state: mkdtempSync('/run/berth-open-state-') };
    const config = join(other.root, 'berth.toml');
    writeFileSync(config, '[stream]\nlisten = "127.0.0.1:0"\n');
    try {
      const args = [
        '--root',
        other.root,
        '--state',
        other.state,
        '--listen',
        `unix://${open}/x.sock`,
        '--config',
        config,
      ];
      const berthd = join(import.meta.dirname, '../../bin/berthd');
      assert.throws(
        () => execFileSync(berthd, args, { timeout: 60_000, stdio: 'pipe', encoding: 'utf8' }),
        (err: Error & { stderr?: string }) => /others than root may write there/.test(err.stderr ?? ''),
      );
      assert.deepEqual(readdirSync(open), []);
    } finally {
      for (const folder of [open, other.root, other.state]) rmSync(folder, { recursive: true });
    }
  });

  test('no user of the host gets to anything of Berth, by no way', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, { envs: [{ key: 'A', value: Buffer.from(VARIABLE) }] });
    await lab.exec(id, 'true');
    const reached: string[] = [];
    const look = (path: string): void => {
      const { mode, uid } = statSync(path);
      const isSocket = path.endsWith('/berth.sock');
      if (uid !== 0 || (mode & (isSocket ? 0o007 : 0o006)) !== 0)
        reached.push(`${path} ${(mode & 0o7777).toString(8)}`);
      // What others cannot enter keeps them from all below.
      if (!statSync(path).isDirectory() || (mode & 0o001) === 0) return;
      for (const name of readdirSync(path)) if (!HARNESS.includes(name)) look(join(path, name));
    };
    for (const folder of [lab.berthd.root, lab.berthd.state]) look(folder);
    assert.deepEqual(reached, []);
    const inside = ['image/layers', 'image/l', 'snapshots', `snapshots/${id}`].map(
      (name) => `${name} ${(statSync(join(lab.berthd.root, name)).mode & 0o777).toString(8)}`,
    );
    assert.deepEqual(inside, ['image/layers 700', 'image/l 700', 'snapshots 711', `snapshots/${id} 710`]);
    const nobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
    const program = join(lab.berthd.root, 'snapshots', id, 'rootfs/bin/busybox');
    // By a shell: setpriv itself keeps capabilities until it starts something.
    const attempt = (): string =>
      execFileSync('setpriv', [...nobody, 'sh', '-c', `${program} true`], { stdio: 'pipe', encoding: 'utf8' });
    assert.throws(attempt, /ermission denied/);
  });

  test('a container has nothing of Berth in it but the files that are meant for it', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const { pid } = await lab.info(id);
    const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    assert.deepEqual(
      open.filter((path) => !/^(pipe:\[\d+\]|\/dev\/null)$/.test(path)),
      [],
    );
    const places = [lab.berthd.root, lab.berthd.state].map((path) => path.replace(/^\/(run|var\/lib)/, ''));
    const mounts = (await lab.exec(id, 'cat', '/proc/self/mountinfo')).split('\n').map((line) => {
      const [, , , root = '', target = ''] = line.split(' ');
      return { root, target };
    });
    const own = mounts.flatMap(({ root, target }) =>
      !target.startsWith('/sys/fs/cgroup') && places.some((place) => root.includes(place)) ? [target] : [],
    );
    assert.deepEqual(own.sort(), ['/etc/hostname', '/etc/hosts', '/etc/resolv.conf']);
    const environment = await lab.exec(id, 'cat', '/proc/1/environ');
    assert.ok(![lab.berthd.root, lab.berthd.state].some((place) => environment.includes(place)), environment);
  });

  test('a stream is given out for its token only', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const request = ExecRequest.create({ containerId: id, cmd: ['true'], stdout: true });
    const { url } = await lab.berthd.call(runtime.exec, request);
    assert.equal(new URL(url).hostname, '127.0.0.1');
    const token = url.split('/').at(-1) ?? '';
    assert.match(token, /^[\w-]{22}$/);
    for (const wrong of ['', 'x'.repeat(22), token.slice(0, -1), `${token}A`]) {
      const answer = await fetch(url.replace(token, wrong));
      assert.ok(answer.status >= 400, `${answer.status}`);
    }
    assert.ok(!readFileSync(lab.berthd.logFile, 'utf8').includes(token));
  });

  test('passwords are in no log, no step and no database; what a container was told is in no log', async (t) => {
    const seen: string[] = [];
    const server = createServer((request, answer) => {
      seen.push(request.headers.authorization ?? '');
      answer.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end('no');
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const address = server.address();
    const image = { image: `127.0.0.1:${typeof address === 'object' ? address?.port : 0}/team/app:1` };
    const auth = { username: 'somebody', password: PASSWORD };
    await lab.berthd.fails(images.pullImage, PullImageRequest.fromPartial({ image, auth }));
    assert.ok(
      seen.some((header) => header.startsWith('Basic ')),
      'it was used',
    );
    const pod = await lab.runPod();
    const id = await lab.start(pod, { envs: [{ key: 'PASSWORD', value: Buffer.from(VARIABLE) }] });
    assert.equal(await lab.exec(id, 'sh', '-c', `echo ${VARIABLE}`), VARIABLE);
    const encoded = Buffer.from(`somebody:${PASSWORD}`).toString('base64');
    const log = readFileSync(lab.berthd.logFile, 'latin1');
    const database = ['', '-wal']
      .map((end) => readFileSync(join(lab.berthd.root, `berth.db${end}`), 'latin1'))
      .join('');
    for (const secret of [PASSWORD, encoded]) assert.ok(!log.includes(secret) && !database.includes(secret));
    assert.ok(!log.includes(VARIABLE));
    await lab.removePod(pod);
    await lab.berthd.end('SIGTERM');
    const after = readFileSync(join(lab.berthd.root, 'berth.db'), 'latin1');
    assert.ok(!after.includes(VARIABLE), 'not in what is left of its record either');
    await lab.berthd.start();
  });

  /** Others do not notice: they are listed, answer, and are started as ever. */
  const othersAreFine = async (other: string): Promise<void> => {
    const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create(), 30_000);
    assert.ok(containers.length >= 2);
    assert.equal(await lab.exec(other, 'echo', 'fine'), 'fine');
    await lab.removePod(await lab.runPod());
  };
  const residentKib = (): number =>
    Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${lab.berthd.pid}/status`, 'utf8'))?.[1]);

  test('a container that fills its log takes neither memory of berthd, nor its time', async () => {
    const [pod, other] = [await lab.runPod(), await lab.start(await lab.runPod())];
    const before = residentKib();
    const id = await lab.start(pod, script('while :; do echo "all work and no play makes a dull log"; done'));
    const { logPath } = await lab.status(id);
    await eventually('it has written much', () => statSync(logPath).size > 20_000_000 || undefined, 60_000);
    await othersAreFine(other);
    assert.ok(residentKib() - before < 40_000, `${before} to ${residentKib()} KiB`);
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    rmSync(logPath);
  });

  test('a container that forks without end', async () => {
    const [pod, other] = [await lab.runPod(), await lab.start(await lab.runPod())];
    const id = await lab.start(pod, script('f() { f | f & }; while :; do f; sleep 0.01; done'));
    const cgroups = readFileSync(`/proc/${(await lab.info(id)).pid}/cgroup`, 'utf8');
    const path = (IS_V2 ? /^0::(.*)$/m : /:pids:(.*)$/m).exec(cgroups)?.[1] ?? '';
    const folder = join(CGROUPS, IS_V2 ? '' : 'pids', path);
    // The kubelet limits the pod's cgroup, where it is told to (podPidsLimit).
    writeFileSync(join(folder, 'pids.max'), '200');
    await eventually(
      'it has come to its limit',
      () => {
        const events = readFileSync(join(folder, 'pids.events'), 'utf8');
        return Number(/max (\d+)/.exec(events)?.[1]) > 0 || undefined;
      },
      60_000,
    );
    await othersAreFine(other);
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    await lab.removePod(pod);
  });

  test('a container that opens every file that it may', async () => {
    const [pod, other] = [await lab.runPod(), await lab.start(await lab.runPod())];
    const id = await lab.start(pod, script('exec tail -f $(yes /dev/zero | head -n 60000)'));
    const { pid } = await lab.info(id);
    await eventually(
      'it has opened many',
      () => {
        try {
          return readdirSync(`/proc/${pid}/fd`).length > 1_000 || undefined;
        } catch {
          return true;
        }
      },
      60_000,
    );
    await othersAreFine(other);
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
  });
});
