import type { OciSeccomp, OciSyscallRule } from './oci-seccomp.ts';
import {
  AF_VSOCK,
  ALLOWED_CALLS,
  ALLOWED_PERSONALITIES,
  CALLS_OF_ARCHITECTURE,
  CALLS_OF_CAPABILITY,
  NAMESPACE_FLAGS,
  REFUSED_CALLS,
} from './seccomp-calls.ts';

const EPERM = 1;
const ENOSYS = 38;
const ALLOW = 'SCMP_ACT_ALLOW';
const ERRNO = 'SCMP_ACT_ERRNO';

/** The architectures whose system calls a kernel takes beside its own, by Node's names. */
const ARCHITECTURES: Readonly<Record<string, readonly string[]>> = Object.freeze({
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
  ppc64: ['SCMP_ARCH_PPC64LE'],
  riscv64: ['SCMP_ARCH_RISCV64'],
  s390x: ['SCMP_ARCH_S390X', 'SCMP_ARCH_S390'],
});

/**
 * The RuntimeDefault profile for a container with these capabilities (`CAP_...`), on an architecture by Node's name. A
 * kernel that takes no calls of x32 has none in it: who makes one all the same is killed, in place of an ENOSYS.
 */
export function defaultSeccomp(
  capabilities: readonly string[],
  architecture: string,
  { takesX32 = true }: { readonly takesX32?: boolean } = {},
): OciSeccomp {
  const granted = new Set(capabilities.flatMap((capability) => CALLS_OF_CAPABILITY[capability] ?? []));
  const guarded = new Set(Object.values(CALLS_OF_CAPABILITY).flat());
  const isAdmin = capabilities.includes('CAP_SYS_ADMIN');
  return {
    defaultAction: ERRNO,
    defaultErrnoRet: ENOSYS,
    // libseccomp's time grows with the square of what it compiles: x32 is half of it, for each container.
    architectures: (ARCHITECTURES[architecture] ?? []).filter((name) => takesX32 || name !== 'SCMP_ARCH_X32'),
    syscalls: [
      { names: [...ALLOWED_CALLS, ...(CALLS_OF_ARCHITECTURE[architecture] ?? []), ...granted], action: ALLOW },
      refuse([...REFUSED_CALLS, ...[...guarded].filter((name) => !granted.has(name))]),
      { names: ['socket'], action: ALLOW, args: [{ index: 0, value: AF_VSOCK, op: 'SCMP_CMP_NE' }] },
      refuse(['socket'], { index: 0, value: AF_VSOCK, op: 'SCMP_CMP_EQ' }),
      ...ALLOWED_PERSONALITIES.map((value) => allow('personality', { index: 0, value, op: 'SCMP_CMP_EQ' })),
      ...(isAdmin ? [{ names: ['clone', 'clone3'], action: ALLOW }] : cloneWithoutNamespaces(architecture)),
    ],
  };
}

// clone3 hides its flags behind a pointer where no filter sees them: ENOSYS makes the C library use clone.
function cloneWithoutNamespaces(architecture: string): OciSyscallRule[] {
  const index = architecture === 's390x' ? 1 : 0;
  const all = NAMESPACE_FLAGS.reduce((mask, flag) => mask + flag, 0);
  return [
    allow('clone', { index, value: all, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }),
    ...NAMESPACE_FLAGS.map((flag) =>
      refuse(['clone'], { index, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }),
    ),
  ];
}

type Argument = NonNullable<OciSyscallRule['args']>[number];

function allow(name: string, argument: Argument): OciSyscallRule {
  return { names: [name], action: ALLOW, args: [argument] };
}

function refuse(names: readonly string[], argument?: Argument): OciSyscallRule {
  return { names, action: ERRNO, errnoRet: EPERM, ...(argument ? { args: [argument] } : {}) };
}
