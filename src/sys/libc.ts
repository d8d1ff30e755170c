import koffi from 'koffi';

import { invalid } from '../base/errors.ts';
import { openFaultPoints } from '../base/fault-points.ts';
import { disturbed, type Library } from './faulty-libc.ts';

/** Calls that may wait for the pool's threads at once: a whole node's pods that end together, some six for each. */
const MAX_POOL_CALLS = 4096;

/**
 * The C library, the only library that Berth calls into. Needs glibc 2.34 (posix_spawn_file_actions_addclosefrom_np)
 * on a 64-bit little-endian machine: struct layouts in this room are those of x86-64 and arm64.
 */
export const libc: Library = openLibrary();

// Threads have no other way to hear of a test's faults than the environment.
function openLibrary(): Library {
  // koffi refuses what is more than 256 by default, and takes no other number once a library is open.
  koffi.config({ max_async_calls: MAX_POOL_CALLS });
  const library = koffi.load('libc.so.6');
  const faults = openFaultPoints(process.env);
  return faults ? disturbed(library, faults) : library;
}

/** A path or a name for the kernel: text, or raw bytes where a file's name need not be UTF-8. */
export type Name = string | Uint8Array;

/**
 * A `Name` in the form that koffi takes for `const char *`. Text goes as it is; bytes get their final NUL. Throws
 * `invalid` for a NUL inside, where C would silently end the name early.
 */
export function cString(name: string): string;
export function cString(name: Name): Name;
export function cString(name: Name): Name {
  if (typeof name === 'string') {
    if (name.includes('\0')) throw invalid('name', `${JSON.stringify(name)} contains a NUL character`);
    return name;
  }
  if (name.includes(0)) throw invalid('name', `${JSON.stringify(showName(name))} contains a NUL character`);
  const terminated = Buffer.allocUnsafe(name.length + 1);
  terminated.set(name);
  terminated[name.length] = 0;
  return terminated;
}

/** A `Name` for people: bytes that are not UTF-8 become replacement characters. */
export function showName(name: Name): string {
  return typeof name === 'string' ? name : Buffer.from(name.buffer, name.byteOffset, name.length).toString();
}
