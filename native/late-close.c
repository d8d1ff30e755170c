/*
 * late-close: a library that CNI plugins have loaded into the iptables that they run (LD_PRELOAD), so that nobody waits for
 * the kernel to free what was deleted.
 *
 * The kernel takes rules out of use when it answers the netlink message that deletes them. Their memory it frees later,
 * when no processor can look at it any more, and whoever closes a socket of that kind meanwhile waits until that is done
 * (nft_rcv_nl_event in net/netfilter/nf_tables_api.c), 10 to 20 ms each time. A DEL deletes three times one after the
 * other, each by an iptables of its own, that ends when its socket is closed.
 *
 * So such an iptables hands its socket to a process of its own kind, and ends at once. That one closes it when the kernel
 * has long been done with these rules. If others have just deleted it waits then for theirs, with the lock that changes
 * of rules take: such waits are fewer so, and not gone.
 *
 * With the memory goes what a rule holds: a chain that it jumped to is free at once, but a list of xt_recent or a set of
 * ipset only now. So this is for plugins whose rules hold nothing of that kind (src/cni/late-close.ts).
 *
 * The place for it is libmnl's function, which others use too (ip, tc, ipset): with these it does what libmnl's does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <time.h>

#include "kernel.h"

#ifndef KEPT_MS
#define KEPT_MS 250
#endif

enum { STANDARD_STREAMS = 3 };

/* What libmnl's begins with. Its own mnl_socket_get_fd is not to be found from here where libmnl was loaded by dlopen(3). */
struct mnl_socket {
	int fd;
};

/* The C library's; weak, because what has none is loaded with this library too. */
__attribute__((weak)) int close(int fd);
__attribute__((weak)) void free(void *memory);

static int is(const char *text, const char *other)
{
	while (*text != '\0' && *text == *other) {
		text++;
		other++;
	}
	return *text == *other;
}

static const char *base_name(const char *path)
{
	const char *name = path;

	for (; *path != '\0'; path++)
		if (*path == '/')
			name = path + 1;
	return name;
}

/*
 * By the arguments. Whoever closes waits, also one that has deleted nothing, for what others have; but to copy a process
 * costs as well. A DEL makes a chain of which it does not know whether it is there, before it empties it.
 */
static int is_part_of_deletion(void)
{
	static const char *const deleting[] = { "-D", "--delete", "-N", "--new-chain", "-F", "--flush", "-X", "--delete-chain" };
	char arguments[4096];
	long fd = syscall4(SYS_openat, AT_FDCWD, (long)"/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
	long length = fd < 0 ? 0 : syscall4(SYS_read, fd, (long)arguments, (long)sizeof(arguments) - 1, 0);

	if (fd >= 0)
		syscall4(SYS_close, fd, 0, 0, 0);
	if (length <= 0)
		return 0;
	arguments[length] = '\0';
	if (!is(base_name(arguments), "iptables") && !is(base_name(arguments), "ip6tables"))
		return 0;
	for (const char *argument = arguments; argument < arguments + length; argument++) {
		for (size_t i = 0; i < sizeof(deleting) / sizeof(deleting[0]); i++)
			if (is(argument, deleting[i]))
				return 1;
		while (*argument != '\0')
			argument++;
	}
	return 0;
}

/* Has another process hold the socket, and nothing else: the plugin reads what is printed to its end. */
static void keep_open(int fd)
{
	struct timespec kept = { .tv_sec = KEPT_MS / 1000, .tv_nsec = KEPT_MS % 1000 * 1000000L };

	/* Without a signal at its end: it has no parent that knows of it. */
	if (syscall5(SYS_clone, 0, 0, 0, 0, 0) != 0)
		return;
	/* Before Linux 5.9 there is no such call: what is closed then is what is known. */
	if (syscall4(SYS_close_range, fd + 1, ~0U, 0, 0) != 0 || syscall4(SYS_close_range, 0, fd - 1, 0, 0) != 0)
		for (long stream = 0; stream < STANDARD_STREAMS; stream++)
			syscall4(SYS_close, stream, 0, 0, 0);
	syscall4(SYS_nanosleep, (long)&kept, 0, 0, 0);
	leave(0);
}

/* As libmnl's own; see mnl_socket_close(3). */
__attribute__((visibility("default"))) int mnl_socket_close(struct mnl_socket *socket)
{
	int result;

	if (socket->fd >= STANDARD_STREAMS && is_part_of_deletion())
		keep_open(socket->fd);
	result = close(socket->fd);
	free(socket);
	return result;
}
