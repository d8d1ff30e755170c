import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { eventually } from '../harness/cri-lab.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const BERTH = fileURLToPath(new URL('../../bin/berth', import.meta.url));

suite('berth run', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(() => lab.close());

  const words = (...args: string[]): string[] => ['--socket', lab.berthd.endpoint, ...args];
  const pods = async (): Promise<unknown[]> => JSON.parse((await berth('--json', 'pods')).out) as unknown[];

  const networkIs = (ready: boolean) =>
    eventually(
      `the network is ready: ${ready}`,
      async () => ((await berth('status')).code === 0) === ready || undefined,
    );

  async function berth(...args: string[]): Promise<{ code: number; out: string; err: string }> {
    const { promise, resolve } = Promise.withResolvers<{ code: number; out: string; err: string }>();
    execFile(BERTH, words(...args), { timeout: 60_000 }, (failure, out, err) =>
      resolve({ code: failure ? Number(failure.code) : 0, out, err }),
    );
    return await promise;
  }

  test('says at once that it waits for a network, and ends at once when it is told to', async () => {
    rmSync(join(lab.berthd.networks, '10-test.conflist'));
    await networkIs(false);
    const waits = lab.berthd.logged('"pod":"default/waits"', 1);
    const child = spawn(BERTH, words('run', '--name', 'waits', lab.image), { stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = once(child, 'close');
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    await waits;
    const toldMs = performance.now();
    child.kill('SIGTERM');
    assert.deepEqual(await ended, [130, null]);
    assert.ok(performance.now() - toldMs < SOON_MS, 'ended late');
    assert.match(said, /^waiting up to 4 minutes for a network .*no valid CNI configuration/);
    lab.berthd.useNetwork();
    await networkIs(true);
    assert.deepEqual(await pods(), []);
  });

  test('tells of a program that ends at once, and leaves its pod to be looked at', async () => {
    const { code, err } = await berth('run', '--name', 'ends', lab.image, '--', 'sh', '-c', 'echo no library; exit 7');
    assert.equal(code, 7);
    assert.match(
      err,
      /^ {2}no library\nberth: pod [0-9a-f]{12} \(ends\): its program has ended at once, with exit code 7/,
    );
    const again = await berth('run', '--name', 'ends', lab.image);
    assert.deepEqual([again.code, /pod ends is there already/.test(again.err)], [1, true]);
    assert.match((await berth('steps', 'ends')).out, /RunPodSandbox[\s\S]*CreateContainer[\s\S]*StartContainer/);
    assert.equal((await berth('rm', 'ends')).code, 0);
  });
});
