import { readFileSync } from 'node:fs';

/** Bit numbers of linux/capability.h, by position. */
const names: readonly string[] = Object.freeze(
  [
    'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE',
    'NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE',
    'SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE',
    'AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF',
    'CHECKPOINT_RESTORE',
  ]
    .join(' ')
    .split(' ')
    .map((name) => `CAP_${name}`),
);

/** The capabilities that this process can use now (CapEff of /proc/self/status), as `CAP_SYS_ADMIN`. */
export function readCapabilities(): ReadonlySet<string> {
  return parseCapabilities(readFileSync('/proc/self/status', 'utf8'), 'CapEff');
}

/** True when this process can use one capability, `CAP_SYS_RESOURCE`. */
export function hasCapability(name: string): boolean {
  return readCapabilities().has(name);
}

/** True for a name that capabilityBits() knows. */
export function isKnownCapability(name: string): boolean {
  return names.includes(name);
}

/** A set of capabilities as the bits of linux/capability.h; names that are not known are left out. */
export function capabilityBits(set: readonly string[]): bigint {
  return set.reduce((bits, name) => {
    const bit = names.indexOf(name);
    return bit < 0 ? bits : bits | (1n << BigInt(bit));
  }, 0n);
}

/** One capability set of a /proc/pid/status text; bits newer than this list are left out. */
export function parseCapabilities(status: string, set: 'CapEff' | 'CapBnd' | 'CapPrm'): ReadonlySet<string> {
  const hex = new RegExp(`^${set}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0';
  const bits = BigInt(`0x${hex}`);
  return new Set(names.filter((_, bit) => ((bits >> BigInt(bit)) & 1n) === 1n));
}
