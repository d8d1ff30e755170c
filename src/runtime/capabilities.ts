import { readFileSync } from 'node:fs';

import { invalid } from '../base/errors.ts';
import { parseCapabilities } from '../sys/capabilities.ts';
import type { Capabilities } from './container-spec.ts';
import type { OciCapabilities } from './oci-spec.ts';

const FIELD = 'config.linux.security_context.capabilities';

/** Every capability of Linux 6.x, by its bit (linux/capability.h), without `CAP_`. */
export const CAPABILITY_NAMES: readonly string[] = Object.freeze(
  `CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
  NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
  SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
  MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`.split(/\s+/),
);

/**
 * What a container has when its client says nothing. CRI-O's nine rather than containerd's fourteen: NET_RAW allows
 * spoofing inside the pod network, and MKNOD, SYS_CHROOT, AUDIT_WRITE and SETFCAP are needed by few, who can add them.
 */
export const DEFAULT_CAPABILITIES: readonly string[] = Object.freeze(
  'CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETPCAP NET_BIND_SERVICE KILL'.split(' '),
);

/** What a container's capabilities come from. Names without `CAP_`. */
export interface CapabilityRequest {
  readonly wanted: Capabilities;
  readonly privileged: boolean;
  /** The first process's user: the kernel strips all but ambient capabilities from others than root. */
  readonly uid: number;
  readonly defaults: readonly string[];
  /** What the kernel lets this host's containers have: readHostCapabilities(). */
  readonly host: ReadonlySet<string>;
}

/** Capabilities for config.json, and the names that were asked for one by one and that this host cannot give. */
export interface ResolvedCapabilities {
  readonly sets: OciCapabilities;
  readonly missing: readonly string[];
}

/** The capabilities in this process's bounding set, without `CAP_`: nothing that it starts can have others. */
export function readHostCapabilities(): ReadonlySet<string> {
  const bounding = parseCapabilities(readFileSync('/proc/self/status', 'utf8'), 'CapBnd');
  return new Set([...bounding].map(withoutPrefix));
}

/**
 * The capability sets of a container's first process. `ALL` is dropped before anything is added, and what is named in
 * both lists is dropped. What the host lacks is left out: OCI runtimes fail on it. Inheritable stays empty, which keeps
 * files with inheritable capabilities from raising any (CVE-2022-24769); ambient ones need it (capabilities(7)).
 * Throws `invalid` for an unknown name.
 */
export function resolveCapabilities(request: CapabilityRequest): ResolvedCapabilities {
  const { privileged, uid, host } = request;
  const defaults = checkNames('runtime.default_capabilities', request.defaults, 'without ALL');
  const add = checkNames(`${FIELD}.add_capabilities`, request.wanted.add);
  const drop = checkNames(`${FIELD}.drop_capabilities`, request.wanted.drop);
  const addAmbient = checkNames(`${FIELD}.add_ambient_capabilities`, request.wanted.addAmbient, 'without ALL');
  const start = drop.has('ALL') ? [] : defaults;
  const chosen = new Set(privileged || add.has('ALL') ? CAPABILITY_NAMES : start);
  for (const name of [...add, ...addAmbient]) chosen.add(name);
  if (!privileged) for (const name of drop) chosen.delete(name);
  const inForce = (names: ReadonlySet<string>): string[] =>
    CAPABILITY_NAMES.filter((name) => names.has(name) && host.has(name)).map((name) => `CAP_${name}`);
  const bounding = inForce(chosen);
  const ambient = inForce(addAmbient).filter((name) => bounding.includes(name));
  const effective = uid === 0 ? bounding : ambient;
  const named = new Set([...add, ...addAmbient].filter((name) => chosen.has(name)));
  return {
    sets: { bounding, effective, permitted: effective, inheritable: ambient, ambient },
    missing: CAPABILITY_NAMES.filter((name) => named.has(name) && !host.has(name)),
  };
}

function checkNames(
  field: string,
  names: readonly string[],
  all: 'with ALL' | 'without ALL' = 'with ALL',
): Set<string> {
  const known = names.map((given) => {
    const name = withoutPrefix(given.toUpperCase());
    const allowed = CAPABILITY_NAMES.includes(name) || (name === 'ALL' && all === 'with ALL');
    if (!allowed) throw invalid(field, `${JSON.stringify(given)} is not a capability`);
    return name;
  });
  return new Set(known);
}

function withoutPrefix(name: string): string {
  return name.startsWith('CAP_') ? name.slice('CAP_'.length) : name;
}
