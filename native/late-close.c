/*
 * late-close: a library that CNI plugins have loaded into the iptables that they run (LD_PRELOAD), so that nobody waits for
 * the kernel to free what was deleted.
 *
 * The kernel takes rules out of use when it answers the netlink message that deletes them. Their memory it frees later,
 * when no processor can look at it any more, and whoever closes a socket of that kind meanwhile waits until that is done
 * (nft_rcv_nl_event in net/netfilter/nf_tables_api.c), 10 to 20 ms each time. A DEL deletes three times one after the
 * other, each by an iptables of its own, that ends when its socket is closed.
 *
 * So an iptables that has deleted hands its socket to a process of its own kind that closes it when the kernel has long
 * been done, and ends at once. The place for that is libmnl's function, which no other programs call than those that talk
 * to the kernel's packet filter.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <time.h>

#include "kernel.h"

enum { KEPT_NS = 250 * 1000 * 1000, STANDARD_STREAMS = 3 };

struct mnl_socket;

/* Libmnl's and the C library's; weak, because what uses neither is loaded with this library too. */
__attribute__((weak)) int mnl_socket_get_fd(const struct mnl_socket *socket);
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

/* By the arguments: what has only looked, or added, closes fast. */
static int has_deleted(void)
{
	static const char *const deleting[] = { "-D", "--delete", "-F", "--flush", "-X", "--delete-chain" };
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
	struct timespec kept = { .tv_sec = 0, .tv_nsec = KEPT_NS };

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
	int fd = mnl_socket_get_fd(socket);
	long result;

	if (fd >= STANDARD_STREAMS && has_deleted())
		keep_open(fd);
	result = syscall4(SYS_close, fd, 0, 0, 0);
	free(socket);
	return result < 0 ? -1 : 0;
}
