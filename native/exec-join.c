/*
 * exec-join: executes one command in a container that runs, as `runc exec --detach` does, in a fraction of its time. It
 * stands in the runtime's place below exec-monitor.
 *
 *     exec-join OPTION=VALUE... -- COMMAND ARGUMENTS...
 *
 *     pid-file, log   where it writes the command's pid, and why there is no command
 *     cgroup          the folder of a cgroup, of version 1, that it joins where it is there; once for each hierarchy
 *     unified         the folder of a cgroup of version 2 that the command is born in
 *     unified-of-init the same, where processes may not be in that one: what has cgroups below it has none itself
 *     cwd             the command's folder in the container
 *     uid, gid        of the user
 *     group           another one of the user's groups; once for each
 *     bounding, effective, permitted, inheritable, ambient
 *                     sets of capabilities as bits, a decimal number
 *     no-new-privs    1 where execve(2) shall give no rights
 *     filter          the file of a seccomp filter, struct sock_filter by struct sock_filter, which the command is held to, or
 *                     "none"; without a word on it nothing is executed
 *     filter-flags    those of seccomp(2) for it
 *     rlimit          RESOURCE:SOFT:HARD, by the kernel's number; once for each
 *     keyring         the name of the container's session keyring
 *     apparmor        the command's profile, empty for none
 *
 * Descriptor 4 is a pidfd of the container's first process. The environment is the command's. Exit code 0: the command
 * runs, and has the nearest subreaper for its parent; 1: it does not, and the log says why. `exec-join --version` ends
 * with 0 where the kernel has all that is needed (Linux 5.9).
 *
 * The container is hostile. This process joins its namespaces, but is not to be seen in there: that is its child only,
 * which nobody but who has CAP_SYS_PTRACE can trace, read or dump until it executes the command (PR_SET_DUMPABLE). The
 * child has nothing of the host's open but its streams when it looks for anything in the container (CVE-2024-21626), and
 * must have been started from a read-only mount, or the program could be written to through /proc (CVE-2019-5736).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kernel.h"

enum {
	INIT = 4,
	MOST_GROUPS = 1024,
	END_MS = 50,
	MOST_CGROUPS = 32,
	MOST_RLIMITS = 32,
	MESSAGE_BYTES = 4096,
	PASSWD_BYTES = 256 * 1024,
	JOIN_SESSION_KEYRING = 1,
	MOST_PROCESSORS = 8192,
	MOST_VARIABLES = 65536,
};

struct limit {
	long resource;
	struct rlimit values;
};

static const char *pid_file;
static const char *log_file;
static const char *cwd = "/";
static const char *keyring = "";
static const char *apparmor = "";
static const char *unified = "";
static const char *unified_of_init = "";
static const char *cgroups[MOST_CGROUPS];
static size_t cgroup_count;
static unsigned groups[MOST_GROUPS];
static size_t group_count;
static struct limit limits[MOST_RLIMITS];
static size_t limit_count;
static unsigned long uid, gid;
static unsigned long bounding, effective, permitted, inheritable, ambient;
static unsigned long no_new_privs;
static const char *filter_file;
static unsigned long filter_flags;

static struct sock_filter instructions[BPF_MAXINSNS];
static struct sock_fprog filter = { .len = 0, .filter = instructions };

/* Where failures are told: the log, and in the command's process a pipe to its parent. */
static long log_fd = -1;
/* The host's /proc, where there is a profile: the container's may be anything. */
static long host_proc = -1;
/* The number of /dev/null. */
static const unsigned long nothing = 1 << 8 | 3;

static size_t length_of(const char *text)
{
	size_t length = 0;

	while (text[length] != '\0')
		length++;
	return length;
}

static int is_equal(const char *one, const char *other)
{
	while (*one != '\0' && *one == *other)
		one++, other++;
	return *one == *other;
}

static size_t append(char *text, size_t length, size_t size, const char *more)
{
	while (*more != '\0' && length < size - 1)
		text[length++] = *more++;
	text[length] = '\0';
	return length;
}

static size_t append_number(char *text, size_t length, size_t size, unsigned long number)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = '\0';
	do
		digits[--at] = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	return append(text, length, size, digits + at);
}

static const char NOT_RUNNING[] = "container is not running";

/* A descriptor of the container's first process until it is closed. */
static int container = INIT;

/* Whether the container's first process has ended. While it is ending, there is neither memory nor a cgroup. */
static int has_ended(long error)
{
	struct pollfd init = { .fd = container, .events = POLLIN };
	struct timespec time = { 0, error == ENOMEM || error == ENODEV ? END_MS * 1000000L : 0 };

	/* Or it would be one more call that a filter has to allow. */
	if (container < 0)
		return 0;
	return syscall5(SYS_ppoll, (long)&init, 1, (long)&time, 0, 0) == 1 && (init.revents & POLLIN) != 0;
}

/* The words of those errors that people meet; they are also how the daemon tells a bad command from a bug. */
static const char *words_of(long error)
{
	switch (error) {
	case ENOENT:
		return "no such file or directory";
	case EACCES:
		return "permission denied";
	case EPERM:
		return "operation not permitted";
	case ENOEXEC:
		return "exec format error";
	case E2BIG:
		return "argument list too long";
	case ENAMETOOLONG:
		return "file name too long";
	case ENOTDIR:
		return "not a directory";
	case ELOOP:
		return "too many levels of symbolic links";
	case EAGAIN:
		return "resource temporarily unavailable";
	case ENOMEM:
		return "cannot allocate memory";
	case EISDIR:
		return "is a directory";
	case EBUSY:
		return "device or resource busy";
	case ESRCH:
		return NOT_RUNNING;
	default:
		return 0;
	}
}

__attribute__((noreturn)) static void fail(const char *what, const char *subject, long result)
{
	char message[MESSAGE_BYTES];
	const char *words = has_ended(-result) ? NOT_RUNNING : words_of(-result);
	size_t length = append(message, 0, sizeof(message), what);

	if (*subject != '\0') {
		length = append(message, length, sizeof(message) - 64, " ");
		length = append(message, length, sizeof(message) - 64, subject);
	}
	length = append(message, length, sizeof(message), ": ");
	if (words != 0) {
		length = append(message, length, sizeof(message), words);
	} else {
		length = append(message, length, sizeof(message), "errno ");
		length = append_number(message, length, sizeof(message), (unsigned long)-result);
	}
	length = append(message, length, sizeof(message), "\n");
	syscall4(SYS_write, log_fd, (long)message, (long)length, 0);
	leave(1);
}

static long expect(const char *what, const char *subject, long result)
{
	if (result < 0)
		fail(what, subject, result);
	return result;
}

static unsigned long parse_number(const char **text)
{
	unsigned long number = 0;

	while (**text >= '0' && **text <= '9')
		number = number * 10 + (unsigned long)(*(*text)++ - '0');
	return number;
}

static unsigned long number_of(const char *text)
{
	return parse_number(&text);
}

/* The value of an option, a null pointer where it is another one. */
static const char *value_of(const char *argument, const char *name)
{
	while (*name != '\0')
		if (*argument++ != *name++)
			return 0;
	return *argument == '=' ? argument + 1 : 0;
}

static void add_limit(const char *value)
{
	struct limit *limit = &limits[limit_count++];

	limit->resource = (long)parse_number(&value);
	value++;
	limit->values.rlim_cur = parse_number(&value);
	value++;
	limit->values.rlim_max = parse_number(&value);
}

/* Takes one option. 0 for one that is not known, or is too much. */
static int take(const char *argument)
{
	static const struct {
		const char *name;
		const char **text;
		unsigned long *number;
	} plain[] = {
		{ "pid-file", &pid_file, 0 },	       { "log", &log_file, 0 },
		{ "cwd", &cwd, 0 },		       { "keyring", &keyring, 0 },
		{ "apparmor", &apparmor, 0 },	       { "unified", &unified, 0 },
		{ "unified-of-init", &unified_of_init, 0 },
		{ "uid", 0, &uid },		       { "gid", 0, &gid },
		{ "bounding", 0, &bounding },	       { "effective", 0, &effective },
		{ "permitted", 0, &permitted },	       { "inheritable", 0, &inheritable },
		{ "ambient", 0, &ambient },	       { "no-new-privs", 0, &no_new_privs },
		{ "filter", &filter_file, 0 },	       { "filter-flags", 0, &filter_flags },
	};
	const char *value;

	for (size_t at = 0; at < sizeof(plain) / sizeof(plain[0]); at++) {
		value = value_of(argument, plain[at].name);
		if (value == 0)
			continue;
		if (plain[at].text != 0)
			*plain[at].text = value;
		else
			*plain[at].number = number_of(value);
		return 1;
	}
	if ((value = value_of(argument, "cgroup")) != 0 && cgroup_count < MOST_CGROUPS)
		cgroups[cgroup_count++] = value;
	else if ((value = value_of(argument, "group")) != 0 && group_count < MOST_GROUPS)
		groups[group_count++] = (unsigned)number_of(value);
	else if ((value = value_of(argument, "rlimit")) != 0 && limit_count < MOST_RLIMITS)
		add_limit(value);
	else
		return 0;
	return 1;
}

static void write_file(const char *what, const char *subject, long fd, const char *text)
{
	expect(what, subject, fd);
	expect(what, subject, syscall4(SYS_write, fd, (long)text, (long)length_of(text), 0));
	syscall4(SYS_close, fd, 0, 0, 0);
}

static long open_below(const char *folder, const char *name, long flags)
{
	char path[PATH_MAX];
	size_t length = append(path, 0, sizeof(path), folder);

	length = append(path, length, sizeof(path), "/");
	append(path, length, sizeof(path), name);
	return syscall4(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0);
}

static int begins_with(const char *text, const char *beginning)
{
	while (*beginning != '\0')
		if (*text++ != *beginning++)
			return 0;
	return 1;
}

/* Before the container's files are to be seen in place of the host's. What is longer than any filter is none. */
static void read_filter(void)
{
	char more;
	long fd, size, length = 0;

	if (is_equal(filter_file, "none"))
		return;
	fd = expect("open", filter_file, syscall4(SYS_openat, AT_FDCWD, (long)filter_file, O_RDONLY | O_CLOEXEC, 0));
	while ((size = syscall4(SYS_read, fd, (long)instructions + length, (long)sizeof(instructions) - length, 0)) > 0)
		length += size;
	expect("read", filter_file, size);
	if (length == 0 || length % (long)sizeof(instructions[0]) != 0 || syscall4(SYS_read, fd, (long)&more, 1, 0) != 0)
		fail("this is no filter:", filter_file, -EINVAL);
	syscall4(SYS_close, fd, 0, 0, 0);
	filter.len = (unsigned short)(length / (long)sizeof(instructions[0]));
}

/* Whether there is a line in a file that begins so. */
static int has_line(const char *folder, const char *file, const char *beginning)
{
	char text[256] = "";
	long fd = open_below(folder, file, O_RDONLY);

	if (fd < 0)
		return 0;
	syscall4(SYS_read, fd, (long)text, sizeof(text) - 1, 0);
	syscall4(SYS_close, fd, 0, 0, 0);
	for (const char *at = text; *at != '\0'; at++)
		if ((at == text || at[-1] == '\n') && begins_with(at, beginning))
			return 1;
	return 0;
}

/* Or about to be. `F` is FREEZING or FROZEN. */
static int is_frozen(const char *cgroup)
{
	return has_line(cgroup, "freezer.state", "F") || has_line(cgroup, "cgroup.events", "frozen 1") ||
	       has_line(cgroup, "cgroup.freeze", "1");
}

/* What joins a frozen cgroup is frozen itself, and nobody would hear of it. */
static void expect_thawed(const char *cgroup)
{
	if (is_frozen(cgroup))
		fail("container is paused, cgroup", cgroup, -EBUSY);
}

/* Beside version 1 there may be none of the container's. */
static long open_unified(const char *folder)
{
	long fd;

	if (*folder == '\0')
		return -1;
	expect_thawed(folder);
	fd = syscall4(SYS_openat, AT_FDCWD, (long)folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd != -ENOENT || cgroup_count == 0)
		expect("open cgroup", folder, fd);
	return fd;
}

/* What the container's first process has moved to, which it may have left by now: negative then. */
static long open_moved_to(const char *folder)
{
	if (*folder == '\0' || is_frozen(folder))
		return -1;
	return syscall4(SYS_openat, AT_FDCWD, (long)folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}

/* A thread that moves itself does not wait for the kernel, as who moves a process does: cgroup_attach_lock(). */
static void join_cgroups(void)
{
	size_t joined = 0;

	for (size_t at = 0; at < cgroup_count; at++)
		expect_thawed(cgroups[at]);
	for (size_t at = 0; at < cgroup_count; at++) {
		long tasks = open_below(cgroups[at], "tasks", O_WRONLY);

		/* The runtime made none in a hierarchy that it does not know. */
		if (tasks == -ENOENT)
			continue;
		write_file("join cgroup", cgroups[at], tasks, "0");
		joined++;
	}
	if (cgroup_count > 0 && joined == 0)
		fail("join a cgroup of version 1:", NOT_RUNNING, -ENOENT);
}

static void join_namespaces(void)
{
	long flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWPID;

	expect("make this process private", "", syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
	expect("join the namespaces", "", syscall4(SYS_setns, INIT, flags, 0, 0));
}

/* Like fork(2), in the cgroup of version 2 (CLONE_INTO_CGROUP, Linux 5.7). */
static long fork_into(long cgroup)
{
	struct clone_args how = { .exit_signal = SIGCHLD };

	if (cgroup >= 0) {
		how.flags = CLONE_INTO_CGROUP;
		how.cgroup = (unsigned long)cgroup;
	}
	return syscall4(SYS_clone3, (long)&how, sizeof(how), 0, 0);
}

/* apparmor(7): what the next program that this thread executes is to be held to. */
static void hold_to_profile(void)
{
	char text[PATH_MAX];

	if (*apparmor == '\0')
		return;
	append(text, append(text, 0, sizeof(text), "exec "), sizeof(text), apparmor);
	write_file("take on AppArmor profile", apparmor,
		   syscall4(SYS_openat, host_proc, (long)"thread-self/attr/apparmor/exec", O_WRONLY | O_CLOEXEC, 0), text);
}

/* What a process was called with is for everybody to read, and paths of the host are nobody's business. */
static void wipe(const char *text)
{
	for (char *at = (char *)text; *at != '\0'; at++)
		*at = '\0';
}

static void wipe_paths(char *own)
{
	const char *name = own;

	for (const char *at = own; *at != '\0'; at++)
		if (*at == '/')
			name = at + 1;
	/* Its name stays, for lists of processes. */
	while (*name != '\0')
		*own++ = *name++;
	wipe(own);
	for (size_t at = 0; at < cgroup_count; at++)
		wipe(cgroups[at]);
	wipe(unified);
	wipe(unified_of_init);
	wipe(pid_file);
	wipe(log_file);
	wipe(filter_file);
}

/* The daemon's own processors are none of the container's: its cpuset alone says where it may run. */
static void use_all_processors(void)
{
	static unsigned long all[MOST_PROCESSORS / (8 * sizeof(long))];

	for (size_t at = 0; at < sizeof(all) / sizeof(all[0]); at++)
		all[at] = ~0UL;
	syscall4(SYS_sched_setaffinity, 0, sizeof(all), (long)all, 0);
}

static void close_between(long first, long last)
{
	if (first <= last)
		expect("close what is the host's", "", syscall4(SYS_close_range, first, last, 0, 0));
}

/* Closes all but the streams, the container's first process, and one that was opened after it. */
static void close_others(long kept)
{
	close_between(3, INIT - 1);
	close_between(INIT + 1, kept - 1);
	close_between(kept + 1, INT_MAX);
}

static int has(unsigned long set, unsigned bit)
{
	return (set >> bit & 1) != 0;
}

static void drop_bounding(void)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		long held = syscall5(SYS_prctl, PR_CAPBSET_READ, bit, 0, 0, 0);

		if (held < 0)
			return;
		if (held == 1 && !has(bounding, bit))
			expect("drop capabilities", "", syscall5(SYS_prctl, PR_CAPBSET_DROP, bit, 0, 0, 0));
	}
}

static struct __user_cap_header_struct own_capabilities(void)
{
	return (struct __user_cap_header_struct){ .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
}

/* Who has become a user has kept them, but for use they have to be taken up again. */
static void use_all_capabilities(void)
{
	struct __user_cap_header_struct header = own_capabilities();
	struct __user_cap_data_struct data[2];

	expect("look at capabilities", "", syscall4(SYS_capget, (long)&header, (long)data, 0, 0));
	for (int half = 0; half < 2; half++)
		data[half].effective = data[half].permitted;
	expect("use capabilities", "", syscall4(SYS_capset, (long)&header, (long)data, 0, 0));
}

static void set_capabilities(void)
{
	struct __user_cap_header_struct header = own_capabilities();
	struct __user_cap_data_struct data[2];

	for (int half = 0; half < 2; half++) {
		data[half].effective = (unsigned)(effective >> 32 * half);
		data[half].permitted = (unsigned)(permitted >> 32 * half);
		data[half].inheritable = (unsigned)(inheritable >> 32 * half);
	}
	expect("set capabilities", "", syscall4(SYS_capset, (long)&header, (long)data, 0, 0));
	syscall5(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned bit = 0; bit < 64; bit++)
		if (has(ambient, bit))
			syscall5(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0);
}

static void load_filter(void)
{
	long how = (long)filter_flags;

	if (filter.len > 0)
		expect("load the seccomp filter", "",
		       syscall4(SYS_seccomp, SECCOMP_SET_MODE_FILTER, how, (long)&filter, 0));
}

/* Or a user who is not root could not open /dev/stdout, which leads here. Who cannot have it does without. */
static void give_streams(void)
{
	struct stat stream;

	for (long fd = 0; fd < 3; fd++) {
		if (syscall4(SYS_fstat, fd, (long)&stream, 0, 0) != 0 || stream.st_uid == uid)
			continue;
		if (S_ISCHR(stream.st_mode) && stream.st_rdev == nothing)
			continue;
		syscall4(SYS_fchown, fd, (long)uid, stream.st_gid, 0);
	}
}

static void become_user(void)
{
	expect("set the groups", "", syscall4(SYS_setgroups, (long)group_count, (long)groups, 0, 0));
	expect("set the group", "", syscall4(SYS_setresgid, (long)gid, (long)gid, (long)gid, 0));
	expect("set the user", "", syscall4(SYS_setresuid, (long)uid, (long)uid, (long)uid, 0));
}

/* What root may not enter, on a network's file system, its owner may: so before and after it has become the user. */
static int enter_folder(void)
{
	return syscall4(SYS_chdir, (long)cwd, 0, 0, 0) == 0;
}

/* A folder outside of the container's root has no path in here: getcwd(2) says so by what it begins with. */
static void check_folder(void)
{
	char path[PATH_MAX];

	expect("look at cwd", cwd, syscall4(SYS_getcwd, (long)path, sizeof(path), 0, 0));
	if (path[0] != '/')
		fail("cwd is outside of the container:", cwd, -EPERM);
}

/* The home of the user in a line of passwd(5), `name:password:uid:gid:words:home:shell`; 0 where it is another's. */
static char *home_in(char *line)
{
	char *fields[7] = { line };
	int count = 1;

	for (char *at = line; *at != '\0'; at++) {
		if (*at != ':')
			continue;
		*at = '\0';
		if (count == 7)
			return 0;
		fields[count++] = at + 1;
	}
	if (count < 6 || *fields[2] < '0' || *fields[2] > '9' || number_of(fields[2]) != uid)
		return 0;
	return fields[5];
}

/* The home that /etc/passwd of the container has for the user, or the root folder. */
static const char *find_home(void)
{
	static char passwd[PASSWD_BYTES];
	struct stat file;
	size_t length = 0;
	/* It may be a fifo. */
	long fd = syscall4(SYS_openat, AT_FDCWD, (long)"/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);

	if (fd >= 0 && syscall4(SYS_fstat, fd, (long)&file, 0, 0) == 0 && S_ISREG(file.st_mode)) {
		long size;

		while ((size = syscall4(SYS_read, fd, (long)passwd + (long)length, PASSWD_BYTES - 1 - (long)length, 0)) > 0)
			length += (size_t)size;
	}
	if (fd >= 0)
		syscall4(SYS_close, fd, 0, 0, 0);
	for (size_t at = 0; at < length;) {
		char *line = passwd + at;
		const char *home;

		while (at < length && passwd[at] != '\n')
			at++;
		passwd[at++] = '\0';
		home = home_in(line);
		if (home != 0 && *home != '\0')
			return home;
	}
	return "/";
}

/* The environment with a HOME, as runc gives one: an empty one counts for none. */
static char **with_home(char **environment)
{
	static char home[PATH_MAX + 8];
	static char *larger[MOST_VARIABLES];
	int has_home = 0;
	size_t kept = 0;

	for (; *environment != 0 && kept < MOST_VARIABLES - 2; environment++) {
		const char *value = value_of(*environment, "HOME");

		if (value == 0 || *value != '\0')
			larger[kept++] = *environment;
		if (value != 0 && *value != '\0')
			has_home = 1;
	}
	if (!has_home) {
		append(home, append(home, 0, sizeof(home), "HOME="), sizeof(home), find_home());
		larger[kept++] = home;
	}
	return larger;
}

static const char *variable(char **environment, const char *name)
{
	for (; *environment != 0; environment++) {
		const char *value = value_of(*environment, name);

		if (value != 0)
			return value;
	}
	return "";
}

/* Executes a program that is looked for in PATH, as execvp(3) does, but runs no file that is no program by a shell. */
__attribute__((noreturn)) static void execute(char **command, char **environment)
{
	const char *name = command[0];
	const char *path = variable(environment, "PATH");
	int is_forbidden = 0;
	char file[PATH_MAX];

	for (const char *at = name; *at != '\0'; at++)
		if (*at == '/')
			fail("exec:", name, syscall4(SYS_execve, (long)name, (long)command, (long)environment, 0));
	while (*path != '\0') {
		size_t length = 0;
		long result;

		for (; *path != '\0' && *path != ':'; path++, length++)
			if (length < sizeof(file))
				file[length] = *path;
		if (*path == ':')
			path++;
		/* A part that is no absolute path would be looked for in the command's folder. */
		if (length == 0 || file[0] != '/' || length + 1 + length_of(name) >= sizeof(file))
			continue;
		file[length++] = '/';
		append(file, length, sizeof(file), name);
		result = syscall4(SYS_execve, (long)file, (long)command, (long)environment, 0);
		if (result == -EACCES)
			is_forbidden = 1;
		else if (result != -ENOENT && result != -ENOTDIR && result != -ELOOP && result != -ENAMETOOLONG)
			fail("exec:", file, result);
	}
	if (is_forbidden)
		fail("exec:", name, -EACCES);
	fail("exec:", name, -ENOENT);
}

__attribute__((noreturn)) static void run_command(char **command, char **environment)
{
	int has_entered;

	/* First of all: the container's files may lead to whatever is open. */
	hold_to_profile();
	close_others(log_fd);
	/* Not before: who is in this namespace may not be moved from outside of it (nsdelegate of cgroups(7)). */
	expect("join the cgroup namespace", "", syscall4(SYS_setns, INIT, CLONE_NEWCGROUP, 0, 0));
	syscall4(SYS_close, INIT, 0, 0, 0);
	container = -1;
	expect("begin a session", "", syscall4(SYS_setsid, 0, 0, 0, 0));
	if (*keyring != '\0') {
		long result = syscall4(SYS_keyctl, JOIN_SESSION_KEYRING, (long)keyring, 0, 0);
		if (result != -ENOSYS)
			expect("join session keyring", keyring, result);
	}
	/* As of the container's first process; runc leaves a command the daemon's. */
	syscall4(SYS_umask, 022, 0, 0, 0);
	use_all_processors();
	if (no_new_privs)
		expect("give up new rights", "", syscall5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	drop_bounding();
	has_entered = enter_folder();
	environment = with_home(environment);
	for (size_t at = 0; at < limit_count; at++)
		expect("set limits", "",
		       syscall4(SYS_prlimit64, 0, limits[at].resource, (long)&limits[at].values, 0));
	give_streams();
	expect("keep capabilities", "", syscall5(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
	become_user();
	/* What the kernel takes for a change of rights makes a process readable again. */
	expect("make this process private", "", syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
	if (!has_entered)
		expect("chdir to cwd", cwd, syscall4(SYS_chdir, (long)cwd, 0, 0, 0));
	check_folder();
	expect("keep no capabilities", "", syscall5(SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0));
	/* As late as the kernel takes it (seccomp(2)): what comes after it, the filter has to allow. */
	if (filter.len > 0 && !no_new_privs) {
		use_all_capabilities();
		load_filter();
	}
	set_capabilities();
	if (no_new_privs)
		load_filter();
	execute(command, environment);
}

/* Has the command run in a process of its own: only what is forked after setns(2) is in the PID namespace. */
static void start_command(char *own, char **command, char **environment)
{
	char message[MESSAGE_BYTES];
	char pid_text[24];
	int ends[2];
	long cgroup, cgroup_of_init;
	long pid;
	long size;
	/* The host's folders are not to be seen any more once the container's are. */
	long pid_fd = expect("open", pid_file,
			     syscall4(SYS_openat, AT_FDCWD, (long)pid_file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));

	if (*apparmor != '\0')
		host_proc = expect("open", "/proc",
				   syscall4(SYS_openat, AT_FDCWD, (long)"/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	expect("make a pipe", "", syscall4(SYS_pipe2, (long)ends, O_CLOEXEC, 0, 0));
	read_filter();
	cgroup = open_unified(unified);
	cgroup_of_init = open_moved_to(unified_of_init);
	join_cgroups();
	wipe_paths(own);
	join_namespaces();
	pid = fork_into(cgroup);
	if (pid < 0 && cgroup_of_init >= 0)
		pid = fork_into(cgroup_of_init);
	expect("fork in the container's cgroup", "", pid);
	if (pid == 0) {
		log_fd = ends[1];
		run_command(command, environment);
	}
	append_number(pid_text, 0, sizeof(pid_text), (unsigned long)pid);
	size = syscall4(SYS_write, pid_fd, (long)pid_text, (long)length_of(pid_text), 0);
	if (size < 0) {
		/* Nobody would wait for it. */
		syscall4(SYS_kill, pid, SIGKILL, 0, 0);
		syscall4(SYS_wait4, pid, 0, 0, 0);
		fail("write the pid file", "", size);
	}
	syscall4(SYS_close, ends[1], 0, 0, 0);
	/* The other end is closed by execve(2), or with the process after it has told why there was none. */
	size = syscall4(SYS_read, ends[0], (long)message, sizeof(message), 0);
	if (size > 0) {
		syscall4(SYS_write, log_fd, (long)message, size, 0);
		syscall4(SYS_wait4, pid, 0, 0, 0);
		leave(1);
	}
}

/* Whether there are clone3(2), setns(2) by pidfd (Linux 5.8) and close_range(2) (5.9). Nothing is changed. */
static int kernel_has_all(void)
{
	long self = syscall4(SYS_pidfd_open, syscall4(SYS_getpid, 0, 0, 0, 0), 0, 0, 0);

	return syscall4(SYS_clone3, 0, 0, 0, 0) == -EINVAL && self >= 0 &&
	       syscall4(SYS_setns, self, CLONE_NEWUTS, 0, 0) == 0 &&
	       syscall4(SYS_close_range, INT_MAX - 1, INT_MAX, 0, 0) == 0;
}

__attribute__((noreturn, used)) static void run(long *stack)
{
	long count = stack[0];
	char **arguments = (char **)(stack + 1);
	char **environment = arguments + count + 1;
	long at = 1;

	if (count == 2 && is_equal(arguments[1], "--version"))
		leave(kernel_has_all() ? 0 : 1);
	while (at < count && !is_equal(arguments[at], "--"))
		if (!take(arguments[at++]))
			leave(2);
	if (at + 1 >= count || pid_file == 0 || log_file == 0 || filter_file == 0)
		leave(2);
	log_fd = syscall4(SYS_openat, AT_FDCWD, (long)log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0)
		leave(2);
	start_command(arguments[0], arguments + at + 1, environment);
	leave(0);
}

BEGIN_WITH_RUN;
