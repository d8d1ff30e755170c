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

/** What a process holds in memory, shared pages by share (PSS of smaps_rollup), in bytes; undefined when gone. */
export function proportionalSetBytes(pid: number): number | undefined {
  try {
    const match = /^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
    return match ? Number(match[1]) * 1024 : undefined;
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
