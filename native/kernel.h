/*
 * What the programs in this folder know of the kernel: they are built without the C library (native/build.sh).
 */
#ifndef BERTH_KERNEL_H
#define BERTH_KERNEL_H

#include <sys/syscall.h>

/* The kernel's signal set: one bit per signal, 64 of them. glibc's sigset_t is larger. */
typedef unsigned long kernel_sigset;

static long syscall5(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "system calls are known for x86-64 and arm64 only"
#endif
}

static long syscall4(long number, long a, long b, long c, long d)
{
	return syscall5(number, a, b, c, d, 0);
}

/* The compiler calls these two for what it finds long. */
__attribute__((used)) void *memset(void *to, int byte, unsigned long size)
{
	for (unsigned long at = 0; at < size; at++)
		((unsigned char *)to)[at] = (unsigned char)byte;
	return to;
}

__attribute__((used)) void *memcpy(void *to, const void *from, unsigned long size)
{
	for (unsigned long at = 0; at < size; at++)
		((unsigned char *)to)[at] = ((const unsigned char *)from)[at];
	return to;
}

__attribute__((noreturn)) static void leave(int code)
{
	for (;;)
		syscall4(SYS_exit_group, code, 0, 0, 0);
}

/* Has a program begin with run(long *stack): the kernel leaves the arguments on the stack, where no C function finds them. */
#if defined(__x86_64__)
#define BEGIN_WITH_RUN __asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n")
#elif defined(__aarch64__)
#define BEGIN_WITH_RUN __asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl run\n")
#endif

#endif
