import { readFileSync } from 'node:fs';

/** What tells this boot of the machine from all others (random(4)). */
export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
