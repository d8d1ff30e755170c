import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Flag of a listening socket in /proc/net/unix (__SO_ACCEPTCON). */
const LISTENING = '00010000';

/** The process that listens on a unix socket; undefined when it is not to be seen from here. */
export function findListener(endpoint: string): number | undefined {
  const path = endpoint.replace(/^unix:(\/\/)?/, '');
  const inodes = new Set(
    readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === LISTENING && fields[7] === path)
      .map((fields) => `socket:[${fields[6]}]`),
  );
  if (inodes.size === 0) return undefined;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((pid) => openFiles(pid).some((target) => inodes.has(target)));
}

/** What a process holds in memory, pages shared with others by share, in bytes. */
export interface Memory {
  readonly bytes: number;
  /** Of these, pages of no file: what nobody else can have. */
  readonly anonymousBytes: number;
}

/** Proportional set sizes (smaps_rollup of proc_pid_smaps(5)); undefined when the process is gone. */
export function memoryOf(pid: number): Memory | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1]) * 1024;
    return { bytes: bytes('Pss'), anonymousBytes: bytes('Pss_Anon') };
  } catch {
    return undefined;
  }
}

function openFiles(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  try {
    return readdirSync(folder).map((fd) => readlinkOrNothing(`${folder}/${fd}`));
  } catch {
    return [];
  }
}

function readlinkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
