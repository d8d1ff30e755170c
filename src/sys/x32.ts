import { readFileSync } from 'node:fs';

import { libc } from './libc.ts';

/** What the number of a system call of the x32 ABI has besides (asm/unistd.h, __X32_SYSCALL_BIT). */
const X32_BIT = 0x40000000;
/** On x86-64. */
const SYS_GETPID = 39;

const syscall = libc.func('syscall', 'long', ['long']) as (nr: number) => number;

/**
 * Whether the kernel takes system calls of x32, the 32-bit ABI with 64-bit registers, which few kernels do: it is built
 * in seldom, and switched off by Debian's. True where it cannot be asked.
 */
export function kernelTakesX32(): boolean {
  // Who is under a filter may be killed for the question.
  if (process.arch !== 'x64' || !/^Seccomp:\s*0$/m.test(readFileSync('/proc/thread-self/status', 'utf8'))) return true;
  return syscall(X32_BIT + SYS_GETPID) > 0;
}
