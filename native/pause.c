/*
 * pause: holds a pod's namespaces open and does nothing else.
 *
 * In a shared PID namespace it is process 1: the kernel gives it every process whose parent has ended, and it reaps
 * them. SIGTERM and SIGINT end it at once; so does SIGKILL from outside the namespace, which ends the whole namespace.
 * Every other signal is ignored, SIGHUP too: no terminal and no configuration stand behind it.
 *
 * Where it shares a PID namespace with containers, they see it, and one that may trace processes could see through it,
 * or drive it. So the first thing that it does is to give away all that it has of the host: its root becomes an empty
 * folder, it drops every capability, and a filter leaves it the four system calls that it lives on, which is less than
 * any seccomp profile that a client may ask of a sandbox.
 *
 * Its arguments are not read. They are there for people who look at a process list: the daemon passes the sandbox id.
 *
 * With descriptors 4 and 5 open it makes its namespaces itself, a user namespace first: a daemon with several threads
 * may not (unshare(2)). It talks with the daemon meanwhile, over pipes: 4 is read, 5 is written.
 *
 *     daemon: 4 bytes, the CLONE_NEW* flags of the namespaces that shall belong to the user namespace
 *     pause:  4 bytes, 0 when it is in a new user namespace
 *     daemon: 1 byte, when it has written the id maps
 *     pause:  4 bytes, the pid of the process that holds the namespaces: another one when there is a PID namespace
 *     daemon: 1 byte, when it has taken over. At the end of the pipe instead, the daemon is gone, and so goes pause.
 *
 * A negative number in place of one of its answers is an errno, and the last that is heard of it.
 *
 * It is built without the C library (native/build.sh): a static glibc takes 700 kB before main, this takes some 20 kB,
 * and a node with hundreds of pods pays for each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "kernel.h"

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

static void reap_all(void)
{
	/* Signals of one kind merge: one SIGCHLD may stand for many ends. */
	while (syscall4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
		;
}

static void must(long result)
{
	if (result < 0)
		leave(1);
}

static int is_open(long descriptor)
{
	return syscall4(SYS_fcntl, descriptor, F_GETFD, 0, 0) >= 0;
}

/*
 * Descriptor 3 is a mount namespace with an empty root, the same for all pods of a daemon. Not chroot(2): who reaches
 * such a root from outside leaves it again by "..". Without the descriptor there is nothing to leave: whoever started
 * this has confined it, as an OCI runtime does, perhaps with a seccomp profile under which setns(2) would not say so.
 */
enum { EMPTY_ROOT = 3 };

static void leave_the_hosts_files(void)
{
	if (!is_open(EMPTY_ROOT))
		return;
	must(syscall4(SYS_setns, EMPTY_ROOT, CLONE_NEWNS, 0, 0));
	syscall4(SYS_close, EMPTY_ROOT, 0, 0, 0);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0, 0, 0 }, { 0, 0, 0 } };

	/* Ends at the first number that this kernel has not, or at once for one who may not do it. */
	for (long capability = 0; capability < 64; capability++)
		if (syscall5(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			break;
	must(syscall4(SYS_capset, (long)&header, (long)none, 0, 0));
	/* Nobody but a tracer with the capability for it looks into this process. */
	must(syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
	must(syscall5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void filter_system_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_rt_sigtimedwait),
		ALLOW(SYS_wait4),
		ALLOW(SYS_exit_group),
		/* After a stop and a continue the kernel itself asks for this one. */
		ALLOW(SYS_restart_syscall),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };
	long result = syscall5(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&program, 0, 0);

	/* A kernel built without filters; everything else is given away already. */
	if (result != -EINVAL)
		must(result);
}

enum { ORDERS = 4, ANSWERS = 5 };

static void hear(void *to, long length)
{
	if (syscall4(SYS_read, ORDERS, (long)to, length, 0) != length)
		leave(1);
}

static void say(int number)
{
	if (syscall4(SYS_write, ANSWERS, (long)&number, sizeof(number), 0) != sizeof(number) || number < 0)
		leave(1);
}

/* Goes on only when it worked; the daemon hears why not. */
static long must_or_say(long result)
{
	if (result < 0)
		say((int)result);
	return result;
}

static void make_namespaces(void)
{
	unsigned int flags;
	char go;

	if (!is_open(ORDERS) || !is_open(ANSWERS))
		return;
	hear(&flags, sizeof(flags));
	must_or_say(syscall4(SYS_unshare, CLONE_NEWUSER, 0, 0, 0));
	say(0);
	hear(&go, 1);
	/* What it makes now belongs to the root of the user namespace. */
	must_or_say(syscall4(SYS_setgroups, 0, 0, 0, 0));
	must_or_say(syscall4(SYS_setresgid, 0, 0, 0, 0));
	must_or_say(syscall4(SYS_setresuid, 0, 0, 0, 0));
	must_or_say(syscall4(SYS_unshare, flags, 0, 0, 0));
	if (flags & CLONE_NEWPID) {
		/* A new PID namespace is for its children: the first of them takes its place. */
		long child = must_or_say(syscall4(SYS_clone, SIGCHLD, 0, 0, 0));

		if (child > 0) {
			say((int)child);
			leave(0);
		}
	} else {
		say((int)syscall4(SYS_getpid, 0, 0, 0, 0));
	}
	hear(&go, 1);
	syscall4(SYS_close, ORDERS, 0, 0, 0);
	syscall4(SYS_close, ANSWERS, 0, 0, 0);
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
	leave_the_hosts_files();
	make_namespaces();
	drop_capabilities();
	filter_system_calls();
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
