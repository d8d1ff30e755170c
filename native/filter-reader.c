/*
 * filter-reader: reads the seccomp filter of a process.
 *
 *     filter-reader PID
 *
 * PID is a process that the OCI runtime has loaded a filter into, and that has not executed the container's program. It is
 * stopped for a moment (PTRACE_INTERRUPT of ptrace(2)), in which the kernel gives out the filter as it was loaded:
 * struct sock_filter by struct sock_filter, on standard output. Exit code 0: it had that one filter. 1: it had none, or
 * several, or has ended, or the kernel gives nothing out (CONFIG_CHECKPOINT_RESTORE, Yama). SIGALRM ends it after a second.
 * Whatever does, the process goes on; a signal that it was given in that moment may be lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "kernel.h"

enum { LONGEST_SECONDS = 1 };

static long trace(long request, long pid, long address, const void *data)
{
	return syscall4(SYS_ptrace, request, pid, address, (long)data);
}

static void write_all(const void *bytes, long size)
{
	const char *at = bytes;

	while (size > 0) {
		long written = syscall4(SYS_write, 1, (long)at, size, 0);

		if (written <= 0)
			leave(1);
		at += written;
		size -= written;
	}
}

__attribute__((noreturn, used)) static void run(long *stack)
{
	static struct sock_filter filter[BPF_MAXINSNS];
	struct itimerval limit = { .it_value = { .tv_sec = LONGEST_SECONDS } };
	long pid = 0;
	long length, second;
	int status = 0;

	if (stack[0] != 2)
		leave(1);
	for (const char *digit = (const char *)stack[2]; *digit >= '0' && *digit <= '9'; digit++)
		pid = pid * 10 + (*digit - '0');
	/* SIGALRM ends this program. */
	syscall4(SYS_setitimer, ITIMER_REAL, (long)&limit, 0, 0);
	if (trace(PTRACE_SEIZE, pid, 0, 0) < 0 || trace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
		leave(1);
	if (syscall4(SYS_wait4, pid, (long)&status, __WALL, 0) != pid || !WIFSTOPPED(status))
		leave(1);
	length = trace(PTRACE_SECCOMP_GET_FILTER, pid, 0, filter);
	second = trace(PTRACE_SECCOMP_GET_FILTER, pid, 1, 0);
	/* A signal may have stopped it before: that one is its own. */
	trace(PTRACE_DETACH, pid, 0, (void *)(long)(status >> 16 == 0 ? WSTOPSIG(status) : 0));
	if (length <= 0 || second != -ENOENT)
		leave(1);
	write_all(filter, length * (long)sizeof(filter[0]));
	leave(0);
}

BEGIN_WITH_RUN;
