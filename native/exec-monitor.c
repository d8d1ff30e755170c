/*
 * exec-monitor: has the OCI runtime start one command in a container, and waits for the command's end.
 *
 *     exec-monitor MARK SCORE PIDFILE RUNTIME ARGUMENTS...
 *
 * RUNTIME with its ARGUMENTS is `<runtime> exec --detach --pid-file PIDFILE ...`, or exec-join: it leaves when the command
 * runs, and the command is then a child of this process, which is why there is one: only a parent learns the exit code, and what
 * the command forks twice comes to it too where the container has no PID namespace of its own.
 *
 * Descriptors 0, 1 and 2 are the command's, 4 is the runtime's where there is one. Descriptor 3 is a stream socket to the
 * daemon. It gets lines:
 *
 *     failed CODE       the runtime did not start the command; this is the runtime's own exit code
 *     started PID       the command runs
 *     ended CODE        it has ended, with 128 + n for signal n; -1 when nobody can tell, because it is no child
 *
 * When the daemon closes the socket or dies, the command and all that it has started are killed: nobody would ever read
 * their output.
 *
 * SCORE is the command's oom_score_adj, empty for the daemon's own: some runtimes set it for containers only.
 *
 * MARK is a number that all processes of this exec carry as their soft RLIMIT_RTTIME, in microseconds, so large that it
 * means nothing. It is passed on by fork and exec whatever becomes of parents, sessions and environments, and so all of
 * them are found.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "kernel.h"

enum { DAEMON = 3, RUNTIMES_OWN = 4, NOT_STARTED = 127, MOST_KILL_ROUNDS = 10 };

/* An entry of a folder, as getdents64(2) gives it. */
struct entry {
	unsigned long inode;
	long offset;
	unsigned short length;
	unsigned char type;
	char name[];
} __attribute__((may_alias));

static kernel_sigset all_signals = ~0UL;

static long mark;
/* Processes of which there may be none: 0. */
static long runtime;
static long command;

static long parse_number(const char *text)
{
	long number = 0;

	while (*text >= '0' && *text <= '9')
		number = number * 10 + (*text++ - '0');
	return number;
}

static void tell(const char *what, long number)
{
	char line[64];
	char digits[24];
	size_t length = 0;
	size_t count = 0;

	while (*what != '\0')
		line[length++] = *what++;
	line[length++] = ' ';
	if (number < 0) {
		line[length++] = '-';
		number = -number;
	}
	do
		digits[count++] = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	while (count > 0)
		line[length++] = digits[--count];
	line[length++] = '\n';
	syscall4(SYS_write, DAEMON, (long)line, (long)length, 0);
}

/* Without a mark, where the limit is lower than any, only relatives are found. */
static void carry_mark(void)
{
	struct rlimit limit;

	if (syscall4(SYS_prlimit64, 0, RLIMIT_RTTIME, 0, (long)&limit) != 0)
		return;
	if (limit.rlim_max < (unsigned long)mark)
		return;
	limit.rlim_cur = (unsigned long)mark;
	syscall4(SYS_prlimit64, 0, RLIMIT_RTTIME, (long)&limit, 0);
}

static void set_oom_score(const char *score)
{
	long fd = syscall4(SYS_openat, AT_FDCWD, (long)"/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
	size_t length = 0;

	while (score[length] != '\0')
		length++;
	/* A lower one than the daemon's takes a right that it may lack; the daemon has warned of that. */
	syscall4(SYS_write, fd, (long)score, (long)length, 0);
	syscall4(SYS_close, fd, 0, 0, 0);
}

static long start_runtime(const char *score, char **arguments, char **environment)
{
	kernel_sigset none = 0;
	long pid = syscall5(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid != 0)
		return pid;
	if (*score != '\0')
		set_oom_score(score);
	syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none));
	syscall4(SYS_execve, (long)arguments[0], (long)arguments, (long)environment, 0);
	leave(NOT_STARTED);
}

/* Reads the beginning of a file as text. Empty when it cannot be read. */
static void read_text(const char *file, char *text, size_t size)
{
	long fd = syscall4(SYS_openat, AT_FDCWD, (long)file, O_RDONLY | O_CLOEXEC, 0);
	long length = fd < 0 ? 0 : syscall4(SYS_read, fd, (long)text, (long)size - 1, 0);

	if (fd >= 0)
		syscall4(SYS_close, fd, 0, 0, 0);
	text[length > 0 ? length : 0] = '\0';
}

static long read_pid(const char *file)
{
	char text[24];

	read_text(file, text, sizeof(text));
	return parse_number(text);
}

/* What follows a word in a text; a null pointer where there is no such word. */
static const char *after(const char *text, const char *word)
{
	for (; *text != '\0'; text++) {
		size_t length = 0;

		while (word[length] != '\0' && text[length] == word[length])
			length++;
		if (word[length] == '\0')
			return text + length;
	}
	return 0;
}

/* By proc(5), and not prlimit(2), which wants a right that a daemon may lack. */
static int carries_mark(const char *pid)
{
	char path[64] = "/proc/";
	char text[4096];
	const char *limit;
	size_t length = 6;

	while (*pid != '\0' && length < 32)
		path[length++] = *pid++;
	for (const char *name = "/limits"; *name != '\0'; name++)
		path[length++] = *name;
	path[length] = '\0';
	read_text(path, text, sizeof(text));
	limit = after(text, "Max realtime timeout");
	if (limit == 0)
		return 0;
	while (*limit == ' ')
		limit++;
	return parse_number(limit) == mark;
}

/* Kills all that carry the mark but this process. Returns how many there were. */
static int kill_marked(void)
{
	char buffer[4096] __attribute__((aligned(8)));
	long self = syscall4(SYS_getpid, 0, 0, 0, 0);
	long fd = syscall4(SYS_openat, AT_FDCWD, (long)"/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	long size;
	int count = 0;

	if (fd < 0)
		return 0;
	while ((size = syscall4(SYS_getdents64, fd, (long)buffer, sizeof(buffer), 0)) > 0) {
		for (long at = 0; at < size; at += ((struct entry *)(buffer + at))->length) {
			const char *name = ((struct entry *)(buffer + at))->name;
			long pid = parse_number(name);

			if (pid <= 1 || pid == self || !carries_mark(name))
				continue;
			syscall4(SYS_kill, pid, SIGKILL, 0, 0);
			count++;
		}
	}
	syscall4(SYS_close, fd, 0, 0, 0);
	return count;
}

/* Again, because what is killed may have just forked. */
static void kill_all_marked(void)
{
	for (int round = 0; round < MOST_KILL_ROUNDS && kill_marked() > 0; round++)
		;
}

static long exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Takes note of what has ended. Until the runtime has, nothing else is reaped: it may be the command. */
static void reap(const char *pid_file)
{
	int status = 0;

	while (runtime != 0) {
		if (syscall4(SYS_wait4, runtime, (long)&status, WNOHANG, 0) <= 0)
			return;
		runtime = 0;
		if (status == 0)
			command = read_pid(pid_file);
		if (command == 0) {
			/* It may have been killed, by the container's lack of memory, when the command ran already. */
			if (WIFSIGNALED(status)) {
				if (read_pid(pid_file) != 0)
					syscall4(SYS_kill, read_pid(pid_file), SIGKILL, 0, 0);
				kill_all_marked();
			}
			tell("failed", exit_code(status));
			leave(0);
		}
		tell("started", command);
	}
	for (;;) {
		long pid = syscall4(SYS_wait4, -1, (long)&status, WNOHANG, 0);

		if (pid == 0)
			return;
		if (pid == command || pid < 0) {
			tell("ended", pid < 0 ? -1 : exit_code(status));
			leave(0);
		}
	}
}

__attribute__((noreturn)) static void abandon(void)
{
	if (runtime != 0)
		syscall4(SYS_kill, runtime, SIGKILL, 0, 0);
	if (command != 0)
		syscall4(SYS_kill, command, SIGKILL, 0, 0);
	kill_all_marked();
	leave(1);
}

__attribute__((noreturn)) static void wait_for_end(const char *pid_file)
{
	kernel_sigset child = 1UL << (SIGCHLD - 1);
	long signals = syscall4(SYS_signalfd4, -1, (long)&child, sizeof(child), SFD_CLOEXEC | SFD_NONBLOCK);

	if (signals < 0)
		abandon();
	for (;;) {
		struct pollfd waits[2] = { { .fd = (int)signals, .events = POLLIN }, { .fd = DAEMON, .events = 0 } };
		struct signalfd_siginfo info;
		long ready = syscall5(SYS_ppoll, (long)waits, 2, 0, 0, sizeof(kernel_sigset));

		if (ready < 0 && ready != -EINTR)
			abandon();
		/* Signals of one kind merge: one SIGCHLD may stand for many ends. */
		while (syscall4(SYS_read, signals, (long)&info, sizeof(info), 0) > 0)
			;
		reap(pid_file);
		if (waits[1].revents != 0)
			abandon();
	}
}

__attribute__((noreturn, used)) static void run(long *stack)
{
	long count = stack[0];
	char **arguments = (char **)(stack + 1);
	char **environment = arguments + count + 1;

	if (count < 5)
		leave(2);
	syscall4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all_signals, 0, sizeof(all_signals));
	syscall5(SYS_prctl, PR_SET_NAME, (long)"exec-monitor", 0, 0, 0);
	syscall4(SYS_fcntl, DAEMON, F_SETFD, FD_CLOEXEC, 0);
	if (syscall5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
		leave(1);
	mark = parse_number(arguments[1]);
	carry_mark();
	runtime = start_runtime(arguments[2], arguments + 4, environment);
	if (runtime < 0) {
		tell("failed", NOT_STARTED);
		leave(1);
	}
	/* Or the daemon would not see the end of the command's output, nor the command that of its input. */
	for (long fd = 0; fd < DAEMON; fd++)
		syscall4(SYS_close, fd, 0, 0, 0);
	syscall4(SYS_close, RUNTIMES_OWN, 0, 0, 0);
	wait_for_end(arguments[3]);
}

BEGIN_WITH_RUN;
