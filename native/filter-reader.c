/*
 * filter-reader: reads the seccomp filter of a container's first process as the runtime has compiled and loaded it.
 *
 *     filter-reader PID
 *
 * PID is a process that is about to execute the container's program, descriptor 3 a pidfd of it. A filter is loaded right
 * before that at the latest, so the process is traced until then, and let go before the program has run its first
 * instruction (PTRACE_O_TRACEEXEC of ptrace(2)). On standard output come a byte when it is traced, and the filter's
 * instructions (struct sock_filter) when it has executed its program.
 *
 * Exit code 0: it had that one filter. 1: it ended before it executed a program. 2: the kernel does not let it be traced, or
 * its filter be read (CONFIG_CHECKPOINT_RESTORE), or it had none, or several. Whatever ends this program, the process goes on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "kernel.h"

enum { PROCESS = 3, LONGEST_SECONDS = 10, HAS_ENDED = 1, NOT_HERE = 2 };

static long trace(long request, long pid, long address, const void *data)
{
	return syscall4(SYS_ptrace, request, pid, address, (long)data);
}

static int has_ended(void)
{
	struct pollfd process = { .fd = PROCESS, .events = POLLIN };
	struct timespec time = { 0, 0 };

	return syscall5(SYS_ppoll, (long)&process, 1, (long)&time, 0, 0) != 0;
}

static int is_stop(int signal)
{
	return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* Lets a traced process go on to its program, with all signals that it gets on the way. */
static void follow(long pid)
{
	for (;;) {
		int status;
		int event, signal;

		if (syscall4(SYS_wait4, pid, (long)&status, __WALL, 0) != pid || !WIFSTOPPED(status))
			leave(HAS_ENDED);
		event = status >> 16;
		signal = WSTOPSIG(status);
		if (event == PTRACE_EVENT_EXEC)
			return;
		/* Stopped by a signal, it waits for another one; what else stops it for the tracer is none. */
		if (event == PTRACE_EVENT_STOP && is_stop(signal))
			trace(PTRACE_LISTEN, pid, 0, 0);
		else
			trace(PTRACE_CONT, pid, 0, (void *)(long)(event == 0 ? signal : 0));
	}
}

static void write_all(const void *bytes, long size)
{
	const char *at = bytes;

	while (size > 0) {
		long written = syscall4(SYS_write, 1, (long)at, size, 0);

		if (written <= 0)
			leave(NOT_HERE);
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

	if (stack[0] != 2)
		leave(NOT_HERE);
	for (const char *digit = (const char *)stack[2]; *digit >= '0' && *digit <= '9'; digit++)
		pid = pid * 10 + (*digit - '0');
	/* SIGALRM ends this program. */
	syscall4(SYS_setitimer, ITIMER_REAL, (long)&limit, 0, 0);
	if (trace(PTRACE_SEIZE, pid, 0, (void *)PTRACE_O_TRACEEXEC) < 0)
		leave(has_ended() ? HAS_ENDED : NOT_HERE);
	/* If it has, the number may be another's by now. */
	if (has_ended())
		leave(HAS_ENDED);
	write_all("+", 1);
	follow(pid);
	length = trace(PTRACE_SECCOMP_GET_FILTER, pid, 0, filter);
	second = trace(PTRACE_SECCOMP_GET_FILTER, pid, 1, 0);
	trace(PTRACE_DETACH, pid, 0, 0);
	if (length <= 0 || second != -ENOENT)
		leave(NOT_HERE);
	write_all(filter, length * (long)sizeof(filter[0]));
	leave(0);
}

BEGIN_WITH_RUN;
