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
