import { existsSync } from 'node:fs';

/** There from AppArmor 3 on. */
const ABI_FILE = '/etc/apparmor.d/abi/3.0';
/** What the profile has rules for. */
export const ABI_RULE = 'abi <abi/3.0>,\n';

/** The name that RuntimeDefault stands for unless the configuration names another profile. */
export const BUILT_IN_PROFILE = 'berth-default';

/**
 * The built-in profile, for apparmor_parser (apparmor.d(5)). It needs none of the host's own files, and no version of
 * the language later than 2.9. A container may do with its own files, network and processes what its capabilities
 * allow; what belongs to the kernel as a whole stays read-only, also where paths are not masked, and it mounts nothing.
 */
export const BUILT_IN_PROFILE_TEXT = `profile ${BUILT_IN_PROFILE} flags=(attach_disconnected, mediate_deleted) {
  capability,
  dbus,
  file,
  network,
  umount,
  unix,

  # Whoever stops a container: the host's processes, and OCI runtimes that have a profile of their own.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun},
  signal (receive) peer=/{,usr/}{,s}bin/{runc,crun},
  signal (send, receive) peer=${BUILT_IN_PROFILE},
  ptrace (trace, read, tracedby, readby) peer=${BUILT_IN_PROFILE},

  deny mount,

  # Files at the top of /proc, and all folders but those of processes and sys.
  deny /proc/* wkl,
  deny /proc/{[^1-9s],s[^y],sy[^s],sys[^/]}** wkl,
  deny /proc/{kcore,kmem,mem} r,

  # Of the sysctls, those that no namespace separates: all but net, fs/mqueue, kernel/shm*, kernel/msg*, kernel/sem*.
  deny /proc/sys/{[^fkn],f[^s],k[^e],n[^e]}** wkl,
  deny /proc/sys/fs/{[^m],m[^q]}** wkl,
  deny /proc/sys/kernel/{[^ms],m[^s],s[^eh],se[^m]}** wkl,

  # Everything in /sys but cgroups.
  deny /sys/{[^f],f[^s]}** wkl,
  deny /sys/fs/{[^c],c[^g]}** wkl,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** r,
}
`;

/**
 * The built-in profile as this host's parser takes it. It says which kinds of rules it knows (apparmor.d(5), "Features
 * and Policy ABI"): of later kinds, such as that of user namespaces, a profile without rules would forbid everything.
 */
export function builtInProfile(abiFile = ABI_FILE): string {
  return `${existsSync(abiFile) ? ABI_RULE : ''}${BUILT_IN_PROFILE_TEXT}`;
}
