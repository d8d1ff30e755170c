/** Takes the demo away: pods, berthd, network, folders. Works on what is left of it, and looks whether anything is. */

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';

import { readLinks } from '../../test/harness/machine-state.ts';
import { berth, isUp, logTail, startBerthd, stopBerthd } from './berthd.ts';
import { restoreHost } from './host.ts';
import { findLeftOvers, readDemoPods, removeFolders, sweepPods } from './leftovers.ts';
import { BRIDGE, CONFIG, LOG, ROOT, STATE } from './places.ts';
import { attempt, message, step } from './say.ts';

const AT_ONCE = 32;

async function removePods(): Promise<string> {
  const pods = JSON.parse(await berth('--json', 'pods')) as { id: string }[];
  // Side by side, and in parts that are done in the time that a command has.
  for (let i = 0; i < pods.length; i += AT_ONCE) await berth('rm', ...pods.slice(i, i + AT_ONCE).map(({ id }) => id));
  return `${pods.length}`;
}

async function restartBerthd(): Promise<string> {
  await startBerthd();
  return '';
}

/** Removes the bridge, if there is one; its last pod has left it. */
function removeBridge(): string {
  if (!readLinks().includes(BRIDGE)) return 'there is none';
  execFileSync('ip', ['link', 'delete', BRIDGE]);
  return BRIDGE;
}

async function takeDown(): Promise<void> {
  const pods = readDemoPods();
  if (findLeftOvers(pods).length === 0) {
    console.log('There is no demo on this machine.');
    return;
  }
  let isClean = false;
  if (existsSync(CONFIG)) {
    // berthd knows best what its pods hold: one that was killed is started once more.
    const serves = (await isUp()) || (await attempt('start berthd again, to clean up', restartBerthd));
    isClean = serves && (await attempt('remove pods', removePods));
    if (!isClean) console.log(`            the end of ${LOG}:\n${logTail()}\n            going on without berthd`);
  }
  await step('stop berthd', stopBerthd);
  if (!isClean) await step('remove processes, cgroups, mounts and packet rules of pods', () => sweepPods(pods));
  await step('remove the bridge', removeBridge, (text) => text);
  await step('put the host back as it was', restoreHost, (text) => text);
  await step(
    'remove folders',
    () => removeFolders(pods),
    () => `${ROOT}, ${STATE}`,
  );
  const left = findLeftOvers(pods);
  if (left.length > 0) throw new Error(`still there:\n  ${left.join('\n  ')}`);
  console.log('Nothing of the demo is left.');
}

try {
  await takeDown();
} catch (err) {
  console.error(
    `\ndown: ${message(err)}\nTry again; what cannot be removed now is gone after a restart of the machine.`,
  );
  process.exitCode = 1;
}
