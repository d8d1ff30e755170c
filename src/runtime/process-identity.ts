import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

import { readProcessStartTime } from '../sys/process.ts';

/** A process as it was seen: the start time tells it from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks since boot. */
  readonly startTime: number;
}

/** The process that has this pid now; undefined when there is none. */
export function identify(pid: number): ProcessIdentity | undefined {
  const startTime = readProcessStartTime(pid);
  return startTime === undefined ? undefined : { pid, startTime };
}

/**
 * The process that a pid file names, if it still runs and has `word` on its command line: the file may be older than
 * the pid's present owner. Undefined for a missing or broken file.
 */
export function findNamedIn(pidFile: string, word: string): ProcessIdentity | undefined {
  const pid = Number(readText(pidFile));
  const found = Number.isInteger(pid) && pid > 0 ? identify(pid) : undefined;
  return found && readText(`/proc/${pid}/cmdline`).split('\0').includes(word) ? found : undefined;
}

/**
 * Processes of Berth's own PID namespace that have all these options with these values on their command line. In another
 * one, a container's, a program may call itself what it likes. Reads all of /proc.
 */
export function findByOptions(options: Readonly<Record<string, string>>): ProcessIdentity[] {
  const own = readlinkSync('/proc/self/ns/pid');
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    // Before its command line: this one is meant, and not a later process of that number.
    const found = identify(Number(name));
    const words = readText(`/proc/${name}/cmdline`).split('\0');
    const hasAll = Object.entries(options).every(([option, value]) =>
      words.some((word, index) => word === option && words[index + 1] === value),
    );
    return found && hasAll && namespaceOf(name) === own ? [found] : [];
  });
}

function namespaceOf(pid: string): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    // It has ended.
    return '';
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return '';
  }
}
