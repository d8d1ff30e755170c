/** Takes the demo away: pods, berthd, network, folders. Works on what is left of it, and looks whether anything is. */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';

import { berth, berthdPids, isUp, startBerthd, stopBerthd } from './berthd.ts';
import { BRIDGE, CONFIG, FORWARDING, FORWARDING_BEFORE, ROOT, STATE } from './places.ts';
import { step } from './say.ts';

async function removePods(): Promise<string> {
  // A berthd that was killed is started once more: it knows best what its pods hold.
  if (!(await isUp())) await startBerthd();
  const pods = JSON.parse(await berth('--json', 'pods')) as { id: string }[];
  if (pods.length > 0) await berth('rm', ...pods.map(({ id }) => id));
  return `${pods.length}`;
}

/** Removes the bridge, if there is one; its last pod has left it. */
function removeBridge(): string {
  if (!existsSync(`/sys/class/net/${BRIDGE}`)) return 'there was none';
  execFileSync('ip', ['link', 'delete', BRIDGE]);
  return BRIDGE;
}

function restoreForwarding(): string {
  if (!existsSync(FORWARDING_BEFORE)) return 'not changed';
  const before = readFileSync(FORWARDING_BEFORE, 'utf8').trim();
  writeFileSync(FORWARDING, before);
  return `ip_forward = ${before}`;
}

function removeFolders(): void {
  for (const folder of [STATE, ROOT]) rmSync(folder, { recursive: true, force: true });
  try {
    // Only if no other pod's logs are in it.
    rmdirSync('/var/log/berth');
  } catch {
    // It is not empty, or not there.
  }
}

/** What is still there of the demo. */
function leftOvers(): string[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((path) => path.startsWith(ROOT) || path.startsWith(STATE));
  const processes = readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const words = readFileSync(`/proc/${name}/cmdline`, 'utf8');
      return words.includes(STATE) ? [`process ${name} (${words.split('\0', 1)[0]})`] : [];
    } catch {
      return [];
    }
  });
  const links = existsSync(`/sys/class/net/${BRIDGE}`) ? [`network link ${BRIDGE}`] : [];
  const folders = [ROOT, STATE].filter((path) => existsSync(path));
  return [...mounts.map((path) => `mount ${path}`), ...processes, ...links, ...folders];
}

try {
  if (!existsSync(CONFIG) && berthdPids().length === 0 && leftOvers().length === 0) {
    console.log('There is no demo on this machine.');
  } else {
    if (existsSync(CONFIG)) await step('remove pods', removePods, (count) => count);
    await step('stop berthd', stopBerthd);
    await step('remove the bridge', removeBridge, (text) => text);
    await step('restore packet forwarding', restoreForwarding, (text) => text);
    await step('remove folders', removeFolders, () => `${ROOT}, ${STATE}`);
    const left = leftOvers();
    if (left.length > 0) throw new Error(`still there:\n  ${left.join('\n  ')}`);
    console.log('Nothing of the demo is left.');
  }
} catch (err) {
  console.error(
    `\ndown: ${err instanceof Error ? err.message : String(err)}\nTry again; if it stays, a restart of the machine clears ${STATE}.`,
  );
  process.exitCode = 1;
}
