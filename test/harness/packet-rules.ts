import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';

/** Removes a pod's packet rules: a reboot takes them along, and so the bridge plugin leaves them when the namespace is gone. */
export function dropRules(pod: string): void {
  const all = execFileSync('iptables', ['-t', 'nat', '-S'], { encoding: 'utf8' }).split('\n');
  const rules = all.filter((rule) => rule.startsWith('-A ') && rule.includes(pod));
  const chains = [...new Set(rules.map((rule) => / -j (CNI-(?:DN-)?[0-9a-f]+)$/.exec(rule)?.[1] ?? ''))].filter(
    Boolean,
  );
  const jumps = rules.filter((rule) => !chains.some((chain) => rule.startsWith(`-A ${chain} `)));
  assert.ok(chains.length > 0);
  assert.equal(jumps.length, chains.length);
  const lines = [
    ...jumps.map((rule) => rule.replace('-A', '-D')),
    ...chains.flatMap((chain) => [`-F ${chain}`, `-X ${chain}`]),
  ];
  execFileSync('iptables-restore', ['--noflush', '--wait'], { input: `*nat\n${lines.join('\n')}\nCOMMIT\n` });
}
