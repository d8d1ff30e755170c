import { execFileSync } from 'node:child_process';
import { readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';

/**
 * Makes a network namespace and holds it by a new file, without a process. `ip netns add` would mount /run/netns where
 * nobody has used it before, and leave that on the machine.
 */
export function holdNetns(file: string): void {
  writeFileSync(file, '', { flag: 'wx' });
  try {
    execFileSync('unshare', [`--net=${file}`, 'true']);
  } catch (err) {
    rmSync(file);
    throw err;
  }
}

/** Lets go of it; it ends with the last process in it. */
export function releaseNetns(file: string): void {
  execFileSync('umount', [file]);
  rmSync(file);
}

/** Runs a command in it and returns what it printed. */
export function inNetns(file: string, command: readonly string[]): string {
  return execFileSync('nsenter', [`--net=${file}`, ...command], { encoding: 'utf8' });
}

/** The processes in it. */
export function pidsInNetns(file: string): number[] {
  const wanted = `net:[${statSync(file).ino}]`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && namespaceOf(name) === wanted)
    .map(Number);
}

function namespaceOf(pid: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    // It has ended.
    return undefined;
  }
}
