import { readFileSync } from 'node:fs';

import { libc } from './libc.ts';

const madvise: (address: number, length: number, advice: number) => number = libc.func('madvise', 'int', [
  'uintptr_t',
  'size_t',
  'int',
]);
const MADV_DONTNEED = 4;

/** Smaller ones are not worth a call. */
const WORTHWHILE_BYTES = 1024 * 1024;

/** A part of this process's memory. */
export interface MemoryRange {
  readonly address: number;
  readonly bytes: number;
}

/**
 * Pages of programs and libraries that this process has touched, given back to the page cache. A program as large as Node
 * touches far more of itself while it starts than ever after, and the kernel maps what lies around each page with it: that
 * counts as this process's memory until somebody needs it. What is used again is mapped again, without reading a disk as
 * long as the cache has it.
 */
export class ProgramPages {
  readonly #ranges = readOnlyFileRanges(readFileSync('/proc/self/maps', 'latin1'), WORTHWHILE_BYTES);

  /** Lets go of all of them: some 2 ms for Node's. What the kernel refuses (pages that are locked) stays. */
  release(): void {
    for (const { address, bytes } of this.#ranges) madvise(address, bytes, MADV_DONTNEED);
  }
}

/**
 * Mappings of files that nobody can have written to, of at least so many bytes, from the text of /proc/PID/maps
 * (proc_pid_maps(5)). MADV_DONTNEED gives back what the file has for them (madvise(2)), and so would undo what the dynamic
 * linker wrote before it protected a page: such pages (RELRO, of ld(1)) lie right before those that can be written.
 */
export function readOnlyFileRanges(maps: string, leastBytes: number): MemoryRange[] {
  const lines = maps.split('\n');
  return lines.flatMap((line, index) => {
    const [, from, to, , path] =
      /^([0-9a-f]+)-([0-9a-f]+) (r-xp|r--p) [0-9a-f]+ \S+ [1-9]\d* +(\/.*)$/.exec(line) ?? [];
    if (from === undefined || to === undefined || path === undefined) return [];
    const next = lines[index + 1] ?? '';
    if (next.startsWith(`${to}-`) && /^\S+ .w/.test(next)) return [];
    const address = Number.parseInt(from, 16);
    const bytes = Number.parseInt(to, 16) - address;
    return bytes < leastBytes ? [] : [{ address, bytes }];
  });
}
