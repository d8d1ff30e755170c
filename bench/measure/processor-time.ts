import { readFileSync } from 'node:fs';

/** The kernel tells processor time in ticks of 10 ms (USER_HZ), whatever its own clock does. */
const TICK_MS = 10;

/**
 * Processor time that all processes and the kernel of this machine have used so far, in milliseconds, steps of 10
 * (/proc/stat, proc_stat(5)). Idle, waiting and stolen time do not count; guest time is part of user time already.
 */
export function machineBusyMs(): number {
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
