import { opendirSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';

/** What processes hold, together. */
export interface ProcessFigures {
  readonly fileDescriptors: number;
  readonly sockets: number;
}

/** Names that are read from the kernel at once, and looked at between two breaths. */
const READ_AT_ONCE = 250;
/** Links that are read for all processes of one container together; each takes some 3 µs. */
const MAX_LOOKED_AT = 5_000;
/** Names that are counted for all of them, where the kernel does not tell their number. */
const MAX_COUNTED = 100_000;

/**
 * Counts the open files of processes. Those that end meanwhile, and what berthd may not see, are left out. Sockets are
 * looked for among the first 5000 descriptors, so a container that opens a million cannot hold up the others. Calls
 * `breathe` between pieces of work.
 */
export async function readProcessFigures(
  pids: readonly number[],
  breathe: () => Promise<void>,
): Promise<ProcessFigures> {
  const found = { fileDescriptors: 0, sockets: 0, seen: 0 };
  for (const pid of pids) {
    try {
      const folder = `/proc/${pid}/fd`;
      // Linux 6.2 says it as the folder's size; older kernels say 0.
      const told = statSync(folder).size;
      if (told > 0 && told <= READ_AT_ONCE) countNames(folder, readdirSync(folder), found);
      else await countMany(folder, told, found, breathe);
    } catch {
      // It has ended.
    }
    await breathe();
  }
  return { fileDescriptors: found.fileDescriptors, sockets: found.sockets };
}

interface Found {
  fileDescriptors: number;
  sockets: number;
  /** Names that were read. */
  seen: number;
}

function countNames(folder: string, names: readonly string[], found: Found): void {
  found.fileDescriptors += names.length;
  for (const name of names) {
    found.seen += 1;
    if (found.seen <= MAX_LOOKED_AT && isSocket(`${folder}/${name}`)) found.sockets += 1;
  }
}

async function countMany(folder: string, told: number, found: Found, breathe: () => Promise<void>): Promise<void> {
  const limit = told > 0 ? MAX_LOOKED_AT : MAX_COUNTED;
  const names = opendirSync(folder, { bufferSize: READ_AT_ONCE });
  const before = found.fileDescriptors;
  try {
    for (let entry = names.readSync(); entry && found.seen < limit; entry = names.readSync()) {
      countNames(folder, [entry.name], found);
      if (found.seen % READ_AT_ONCE === 0) await breathe();
    }
  } finally {
    names.closeSync();
    found.fileDescriptors = Math.max(found.fileDescriptors, before + told);
  }
}

/** A process's soft limit on open files; Infinity is none, undefined when it is gone. */
export function readOpenFilesLimit(pid: number): number | undefined {
  try {
    const soft = /^Max open files\s+(\d+|unlimited)\s/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'))?.[1];
    if (soft === undefined) return undefined;
    return soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return undefined;
  }
}

function isSocket(link: string): boolean {
  try {
    return readlinkSync(link).startsWith('socket:');
  } catch {
    return false;
  }
}
