/** The next version of the package is installed under 20 running pods: the daemon is another one, and pods never know. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, test } from 'node:test';

import type { CriLab } from '../../harness/cri-lab.ts';
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

const PODS = 20;

/** The version of the installed package. Throws when it is not installed as a whole. */
function installedPackage(): string {
  const told = command('dpkg-query', '--status', 'berth');
  assert.match(told, /^Status: install ok installed$/m);
  return /^Version: (.+)$/m.exec(told)?.[1] ?? assert.fail(told);
}

suite('an upgrade of the package', () => {
  let node: CriLab & Disposable;
  let pods: readonly CountingPod[];
  before(async () => {
    node = openNode('upgrade');
    pods = await startCounting(node, PODS);
  });
  after(async () => {
    await removeAllPods(node);
    node[Symbol.dispose]();
  });

  test(`under ${PODS} running pods restarts berthd and none of them, and no log has a gap`, async (t) => {
    const previous = { version: installedPackage(), pid: unitProperty('MainPID') };
    const beganAt = performance.now();
    command('dpkg', '--install', 'vm/next/berth.deb');
    await answers(node);
    t.diagnostic(`from dpkg's start to berthd's first answer: ${Math.round(performance.now() - beganAt)} ms`);
    assert.notEqual(installedPackage(), previous.version);
    assert.notEqual(unitProperty('MainPID'), previous.pid, 'the upgrade must start the new version');
    await assertUntouched(node, pods);
    t.diagnostic(`the longest silence of a log that gets a line a second: ${await longestSilenceMs(node, pods)} ms`);
  });

  test('back to the version of before does as little to them', async () => {
    command('dpkg', '--install', 'vm/package/berth.deb');
    await answers(node);
    await assertUntouched(node, pods);
  });
});
