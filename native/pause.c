/*
 * pause: holds a pod's namespaces open and does nothing else.
 *
 * In a shared PID namespace it is process 1: the kernel gives it every process whose parent has ended, and it reaps
 * them. SIGTERM and SIGINT end it at once; so does SIGKILL from outside the namespace, which ends the whole namespace.
 * Every other signal is ignored, SIGHUP too: no terminal and no configuration stand behind it.
 *
 * Its arguments are not read. They are there for people who look at a process list: the daemon passes the sandbox id.
 *
 * It is built without the C library (native/build.sh): a static glibc takes 700 kB before main, this takes some 20 kB,
 * and a node with hundreds of pods pays for each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* The kernel's signal set: one bit per signal, 64 of them. glibc's sigset_t is larger. */
typedef unsigned long kernel_sigset;

static long syscall4(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#else
#error "pause.c knows the system calls of x86-64 and arm64 only"
#endif
}

__attribute__((noreturn)) static void leave(int code)
{
	for (;;)
		syscall4(SYS_exit_group, code, 0, 0, 0);
}

static void reap_all(void)
{
	/* Signals of one kind merge: one SIGCHLD may stand for many ends. */
	while (syscall4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
		;
}

__attribute__((noreturn)) void _start(void)
{
	kernel_sigset all = ~0UL;

	/*
	 * Blocked signals stay pending until sigtimedwait takes them. Handlers would not do for process 1: the kernel
	 * drops what has no handler, and with one there is a gap between looking for zombies and going to sleep.
	 */
	if (syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof(all)) != 0)
		leave(1);

	syscall4(SYS_prctl, PR_SET_NAME, (long)"pause", 0, 0);
	reap_all();

	for (;;) {
		long signal = syscall4(SYS_rt_sigtimedwait, (long)&all, 0, 0, sizeof(all));

		if (signal == SIGTERM || signal == SIGINT)
			leave(0);
		if (signal == SIGCHLD)
			reap_all();
		if (signal < 0 && signal != -EINTR)
			leave(1);
	}
}
