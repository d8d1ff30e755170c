import { readdirSync, readFileSync } from 'node:fs';

import type { ProcessIdentity } from '../runtime/process-identity.ts';
import { readProcessStartTime } from '../sys/process.ts';

/**
 * The pause process of a sandbox whose record does not name it: its daemon died after it had started it and before it
 * had written that down. It is known by its program and by the sandbox's id, its only argument.
 */
export function findPause(pausePath: string, sandboxId: string): ProcessIdentity | undefined {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const [program, argument] = commandLine(name);
    if (program !== pausePath || argument !== sandboxId) continue;
    const startTime = readProcessStartTime(Number(name));
    if (startTime !== undefined) return { pid: Number(name), startTime };
  }
  return undefined;
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}
