import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { buildBusyboxLayout, pushLayout, startRegistry, type TestRegistry } from '../fakes/images.ts';
import { addNginx } from '../fakes/nginx.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { crictl, findCrictl } from '../harness/crictl.ts';
import { SOON_MS } from '../harness/patience.ts';

const PAGE = 'nginx in a pod\n';
const found = findCrictl();

suite('crictl as a person uses it', { skip: 'missing' in found ? found.missing : false, timeout: 900_000 }, () => {
  const path = 'path' in found ? found.path : '';
  let berthd: TestBerthd;
  let registry: TestRegistry;
  let work: string;
  let image: string;
  const run = (...args: string[]): Promise<string> => crictl(path, berthd.endpoint, ...args);

  before(async () => {
    work = mkdtempSync(join(tmpdir(), 'berth-crictl-'));
    const layout = await buildBusyboxLayout(join(work, 'layout'), {
      tag: 'nginx',
      config: { Cmd: ['/usr/sbin/nginx', '-c', '/etc/nginx/nginx.conf'] },
      populate: (rootfs) => addNginx(rootfs, { page: PAGE }),
    });
    registry = await startRegistry();
    await pushLayout(layout, registry, 'web/nginx:1');
    image = `${registry.host}/web/nginx:1`;
    berthd = new TestBerthd();
    await berthd.start();
  });
  after(async () => {
    // First: one that listens would keep this process when something is found that was left.
    await registry[Symbol.asyncDispose]();
    await berthd[Symbol.asyncDispose]();
    rmSync(work, { recursive: true });
  });

  const podFile = (name: string, more: object = {}): string => {
    const file = join(work, `${name}.json`);
    const pod = {
      metadata: { name, namespace: 'people', uid: `uid-${name}`, attempt: 1 },
      log_directory: join(berthd.root, 'logs', name),
      linux: { security_context: { namespace_options: { pid: 1 } } },
      ...more,
    };
    writeFileSync(file, JSON.stringify(pod));
    return file;
  };
  const containerFile = (name: string, more: object = {}): string => {
    const file = join(work, `${name}-container.json`);
    writeFileSync(file, JSON.stringify({ metadata: { name }, image: { image }, log_path: `${name}.log`, ...more }));
    return file;
  };
  const start = async (name: string, more: object = {}): Promise<{ pod: string; container: string }> => {
    const pod = await run('runp', podFile(name));
    const container = await run('create', pod, containerFile(name, more), podFile(name));
    await run('start', container);
    return { pod, container };
  };
  const ipOf = async (pod: string): Promise<string> => {
    const { status } = JSON.parse(await run('inspectp', pod)) as { status: { network: { ip: string } } };
    return status.network.ip;
  };

  test('a web server is pulled, runs, and is reached from the host and from another pod', async () => {
    assert.match(await run('pull', image), /Image is up to date for sha256:[0-9a-f]{64}/);
    assert.match(await run('images'), new RegExp(`${registry.host}/web/nginx +1 `));
    const web = await start('web');
    const ip = await ipOf(web.pod);
    assert.equal(await fetchPage(ip), PAGE);
    const client = await start('client', { command: ['sleep', '1000'] });
    assert.equal(
      `${await run('exec', '--sync', client.container, 'wget', '-qO-', `http://${ip}/`)}\n`.trimEnd(),
      PAGE.trimEnd(),
    );
    assert.match(await run('pods'), /Ready +web +people/);
    assert.match(await run('ps'), /Running +web/);
    const { info } = JSON.parse(await run('inspect', web.container)) as {
      info: { pid: number; runtimeSpec: { process: { args: string[] } } };
    };
    assert.ok(info.pid > 1);
    assert.equal(info.runtimeSpec.process.args[0], '/usr/sbin/nginx');
    await assert.rejects(run('rmi', image), /in use/);
    await run('stop', web.container);
    assert.match(await run('ps', '--state', 'exited'), /Exited +web/);
    await run('rm', web.container);
    for (const { pod } of [web, client]) {
      await run('stopp', pod);
      await run('rmp', pod);
    }
    await run('rmi', image);
    assert.doesNotMatch(await run('images'), /nginx/);
    await run('pull', image);
  });

  test('logs show what a container has written', async () => {
    const { pod, container } = await start('writer', { command: ['sh', '-c', 'echo one; echo two >&2; sleep 1000'] });
    const giveUpAt = Date.now() + SOON_MS;
    while (!/one/.test(await run('logs', container)) && Date.now() < giveUpAt) await delay(20);
    assert.match(await run('logs', container), /one/);
    await run('rmp', '--force', pod);
  });

  test('twenty pods at once, through a kill -9 in the middle', async () => {
    const names = Array.from({ length: 20 }, (_, index) => `many-${index}`);
    const first = names.slice(0, 10).map((name) => start(name, { command: ['sleep', '1000'] }));
    const made = await Promise.all(first);
    const cutOff = names.slice(10).map((name) => run('runp', podFile(name)).catch(() => undefined));
    await delay(100);
    await berthd.end('SIGKILL');
    await Promise.all(cutOff);
    await berthd.start();
    const rest = await Promise.all(names.slice(10).map((name) => start(name, { command: ['sleep', '1000'] })));
    const all = [...made, ...rest];
    assert.equal(new Set(await Promise.all(all.map(({ pod }) => ipOf(pod)))).size, 20);
    assert.equal((await run('ps', '-q')).split('\n').length, 20);
    for (const { container } of all) assert.equal(await run('exec', '--sync', container, 'echo', 'alive'), 'alive');
    await Promise.all(all.map(({ pod }) => run('rmp', '--force', pod)));
    assert.equal(await run('pods', '-q'), '');
  });
});

async function fetchPage(ip: string): Promise<string> {
  const giveUpAt = Date.now() + SOON_MS;
  for (;;) {
    try {
      return await (await fetch(`http://${ip}/`)).text();
    } catch (err) {
      if (Date.now() > giveUpAt) throw err;
      await delay(20);
    }
  }
}
