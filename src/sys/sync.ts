import { check } from './errno.ts';
import { libc } from './libc.ts';

const syncfsCall: (fd: number) => number = libc.func('syncfs', 'int', ['int']);

/**
 * Writes the whole file system of an open file to disk and waits for it (syncfs(2)). That may take seconds: for worker
 * threads only.
 */
export function syncfs(fd: number): void {
  check('syncfs', `fd ${fd}`, syncfsCall(fd));
}
