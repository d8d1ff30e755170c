import { check } from './errno.ts';
import { libc } from './libc.ts';

const prctl: (option: number, value: number, a: number, b: number, c: number) => number = libc.func('prctl', 'int', [
  'int',
  'ulong',
  'ulong',
  'ulong',
  'ulong',
]);
const PR_SET_DUMPABLE = 4;

/**
 * Keeps this process's memory out of core files: it holds passwords of registries, and what people type into containers
 * (prctl(2), PR_SET_DUMPABLE). Programs that it starts are not concerned.
 */
export function keepMemoryPrivate(): void {
  check('prctl', 'PR_SET_DUMPABLE', prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}
