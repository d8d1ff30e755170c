import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Finding } from './finding.ts';

/** A setting of the kernel that pods need, and from which value on. */
interface Wanted {
  readonly name: string;
  readonly least: number;
  readonly severity: Finding['severity'];
  readonly meaning: string;
}

const WANTED: readonly Wanted[] = Object.freeze([
  {
    name: 'net.ipv4.ip_forward',
    least: 1,
    severity: 'info',
    meaning: 'pods reach nothing beyond this node; most network plugins set it with the first pod',
  },
  {
    name: 'fs.inotify.max_user_instances',
    least: 128,
    severity: 'warning',
    meaning: 'berthd, the kubelet and programs in pods share them, and fail when they are used up',
  },
  {
    name: 'fs.inotify.max_user_watches',
    least: 8192,
    severity: 'warning',
    meaning: 'following files and logs fails when they are used up',
  },
  {
    name: 'kernel.pid_max',
    least: 32_768,
    severity: 'warning',
    meaning: 'all pods of this node together can have no more processes and threads',
  },
  {
    name: 'user.max_user_namespaces',
    least: 1,
    severity: 'info',
    meaning: 'pods with a user namespace cannot run',
  },
]);

/** Settings of the kernel with which pods, or some of them, will not work. `proc` is where /proc is. */
export function sysctlFindings(proc = '/proc'): Finding[] {
  return WANTED.flatMap(({ name, least, severity, meaning }): Finding[] => {
    const value = read(join(proc, 'sys', ...name.split('.')));
    if (value === undefined || value >= least) return [];
    const setting = `${name}=${least}`;
    return [
      {
        severity,
        subject: `sysctl ${name}`,
        message: `is ${value}, less than ${least}: ${meaning}`,
        remedy: `sysctl -w ${setting}, and for the next boot: echo ${setting} >> /etc/sysctl.d/90-berth.conf`,
      },
    ];
  });
}

/** Undefined where this kernel has no such setting. */
function read(file: string): number | undefined {
  try {
    return Number(readFileSync(file, 'utf8').trim());
  } catch {
    return undefined;
  }
}
