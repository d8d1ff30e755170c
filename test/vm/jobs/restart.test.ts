/** berthd ends under running pods, as systemd ends it and as a crash does: systemd brings it back, and pods never know. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, test } from 'node:test';

import type { CriLab } from '../../harness/cri-lab.ts';
import { eventually } from '../../harness/cri-lab.ts';
import {
  answers,
  assertUntouched,
  type CountingPod,
  command,
  longestSilenceMs,
  openNode,
  removeAllPods,
  startCounting,
  unitProperty,
} from './node.ts';

const PODS = 5;
const RESTART_TIMEOUT_MS = 120_000;

suite('a berthd that ends', () => {
  let node: CriLab & Disposable;
  let pods: readonly CountingPod[];
  before(async () => {
    node = openNode('restart');
    pods = await startCounting(node, PODS);
  });
  after(async () => {
    await removeAllPods(node);
    node[Symbol.dispose]();
  });

  const mainPid = (): number => Number(unitProperty('MainPID'));

  test('by systemctl restart leaves the pods alone', async () => {
    const previous = mainPid();
    command('systemctl', 'restart', 'berthd');
    await answers(node);
    assert.notEqual(mainPid(), previous);
    await assertUntouched(node, pods);
  });

  test('by kill -9 is started again by systemd, and leaves the pods alone', async () => {
    const previous = mainPid();
    process.kill(previous, 'SIGKILL');
    const isBack = (): true | undefined =>
      (mainPid() !== previous && unitProperty('ActiveState') === 'active') || undefined;
    await eventually('systemd starts berthd again', isBack, RESTART_TIMEOUT_MS);
    await answers(node);
    await assertUntouched(node, pods);
  });

  test('while it is stopped the pods go on, and their logs', async (t) => {
    command('systemctl', 'stop', 'berthd');
    for (const { pid } of pods) process.kill(pid, 0);
    command('systemctl', 'start', 'berthd');
    await answers(node);
    await assertUntouched(node, pods);
    t.diagnostic(`the longest silence of a log that gets a line a second: ${await longestSilenceMs(node, pods)} ms`);
  });

  test('takes new pods afterwards, and lets go of old ones', async () => {
    const [fresh] = await startCounting(node, 1);
    assert.ok(fresh);
    await assertUntouched(node, [fresh]);
    await node.removePod(fresh.id);
  });
});
