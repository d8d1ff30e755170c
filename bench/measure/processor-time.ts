import { existsSync, readFileSync } from 'node:fs';

/** The kernel tells processor time in ticks of 10 ms (USER_HZ), whatever its own clock does. */
const TICK_MS = 10;

/** What the kernel counts for a whole hierarchy of control groups, by version: nanoseconds, microseconds. */
const CGROUP_TOTALS: readonly (readonly [file: string, pattern: RegExp, perMs: number])[] = [
  ['/sys/fs/cgroup/cpuacct/cpuacct.usage', /^(\d+)/, 1e6],
  ['/sys/fs/cgroup/cpu.stat', /^usage_usec (\d+)/m, 1e3],
];

/**
 * Processor time that all processes of this machine have used so far, in milliseconds; in a container or another control
 * group namespace, those of that one. Counted at the top of a control group hierarchy (cgroup-v1/cpuacct.rst, cgroup-v2.rst
 * "cpu.stat") where there is one, else from /proc/stat (proc_stat(5)) in steps of 10 ms.
 */
export function machineBusyMs(): number {
  for (const [file, pattern, perMs] of CGROUP_TOTALS) {
    const [, count] = pattern.exec(existsSync(file) ? readFileSync(file, 'utf8') : '') ?? [];
    if (count !== undefined) return Number(count) / perMs;
  }
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line.trim().split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softirq) * TICK_MS;
}

/** Processor time of one process with all its threads, without its children, in milliseconds; 0 when it is gone. */
export function processBusyMs(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces; the state is the first field after it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
  } catch {
    return 0;
  }
}

/** Processor time of this process, in milliseconds. */
export function ownBusyMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
