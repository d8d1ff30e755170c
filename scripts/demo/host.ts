/** What the demo finds on the host and changes there by the CNI plugins' doing, and how it is put back. */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';

import { HOST_BEFORE, NETWORK } from './places.ts';
import { freeSubnet } from './subnet.ts';

/** The bridge plugin switches it on for good. */
const FORWARDING = '/proc/sys/net/ipv4/ip_forward';
/** The chains that the portmap plugin makes with its first port, and never removes. */
const PORT_CHAINS: readonly string[] = Object.freeze([
  'CNI-HOSTPORT-DNAT',
  'CNI-HOSTPORT-SETMARK',
  'CNI-HOSTPORT-MASQ',
]);

interface HostBefore {
  readonly forwarding: string;
  readonly hasPortChains: boolean;
}

/** Notes how the host is, for restoreHost(). What is noted already stays. */
export function noteHost(): void {
  if (existsSync(HOST_BEFORE)) return;
  const before: HostBefore = {
    forwarding: readFileSync(FORWARDING, 'utf8').trim(),
    hasPortChains: natRules().some((rule) => rule.startsWith('-N CNI-HOSTPORT-DNAT')),
  };
  writeFileSync(HOST_BEFORE, `${JSON.stringify(before)}\n`);
}

/** Puts back what noteHost() has noted. Returns what that was, in words. */
export function restoreHost(): string {
  if (!existsSync(HOST_BEFORE)) return 'nothing is noted';
  const before = JSON.parse(readFileSync(HOST_BEFORE, 'utf8')) as HostBefore;
  const isChanged = readFileSync(FORWARDING, 'utf8').trim() !== before.forwarding;
  if (isChanged) writeFileSync(FORWARDING, before.forwarding);
  const hasRemoved = !before.hasPortChains && removePortChains();
  const done = [
    ...(isChanged ? [`ip_forward = ${before.forwarding}`] : []),
    ...(hasRemoved ? ["portmap's empty chains"] : []),
  ];
  return done.join(', ') || 'nothing was changed';
}

/** The rules of the nat table that plugins made for pods of the demo. */
export function demoRules(): string[] {
  return natRules().filter((rule) => rule.startsWith('-A ') && rule.includes(`name: \\"${NETWORK}\\"`));
}

/** Removes the demo's rules and the chains that they lead to: what CNI DEL would have done. */
export function removeDemoRules(): void {
  const rules = demoRules();
  const chains = new Set(rules.flatMap((rule) => /-j (CNI-(?:DN-)?[0-9a-f]+)$/.exec(rule)?.[1] ?? []));
  editNat([
    ...rules.filter((rule) => !chains.has(rule.split(' ')[1] ?? '')).map(asDeletion),
    ...[...chains].flatMap((chain) => [`-F ${chain}`, `-X ${chain}`]),
  ]);
}

/** False when somebody uses them: then all of them stay. */
function removePortChains(): boolean {
  const rules = natRules();
  const chains = PORT_CHAINS.filter((chain) => rules.includes(`-N ${chain}`));
  if (chains.length === 0 || rules.some((rule) => rule.startsWith('-A CNI-HOSTPORT-DNAT '))) return false;
  const jumps = rules.filter((rule) => /^-A (PREROUTING|OUTPUT|POSTROUTING) .*-j CNI-HOSTPORT-/.test(rule));
  const emptied = chains.filter((chain) => chain !== 'CNI-HOSTPORT-DNAT');
  try {
    // All or nothing: a rule that somebody adds meanwhile to the first chain makes its removal fail.
    editNat([
      ...jumps.map(asDeletion),
      ...emptied.map((chain) => `-F ${chain}`),
      ...chains.map((chain) => `-X ${chain}`),
    ]);
    return true;
  } catch {
    return false;
  }
}

function asDeletion(rule: string): string {
  return rule.replace(/^-A/, '-D');
}

function editNat(lines: readonly string[]): void {
  if (lines.length === 0) return;
  execFileSync('iptables-restore', ['--noflush', '--wait'], { input: `*nat\n${lines.join('\n')}\nCOMMIT\n` });
}

function natRules(): string[] {
  return execFileSync('iptables', ['--wait', '-t', 'nat', '-S'], { encoding: 'utf8' }).split('\n');
}

/** A range for the demo's pods that collides with no route of the host. */
export function findSubnet(): string {
  const routes = execFileSync('ip', ['-json', '-4', 'route', 'show', 'table', 'all'], { encoding: 'utf8' });
  return freeSubnet((JSON.parse(routes) as { dst: string }[]).map(({ dst }) => dst));
}

/** The first TCP port from 8080 on that nobody listens on. */
export async function findPort(): Promise<number> {
  for (let port = 8080; port < 8180; port++) {
    const server = createServer();
    const { promise, resolve } = Promise.withResolvers<boolean>();
    server.once('error', () => resolve(false)).listen(port, () => resolve(true));
    if (!(await promise)) continue;
    server.close();
    return port;
  }
  throw new Error('all ports from 8080 to 8179 are in use');
}
