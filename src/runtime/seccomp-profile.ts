import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import type { OciSeccomp, OciSyscallRule } from './oci-seccomp.ts';

/**
 * Profiles in files: the form of the OCI runtime specification, and Docker's, whose rules can depend on capability,
 * architecture and kernel. Null stands for "not given", as Go's encoder writes it.
 */
const ACTIONS = [
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
  'SCMP_ACT_NOTIFY',
];
const OPERATORS = ['NE', 'LT', 'LE', 'EQ', 'GE', 'GT', 'MASKED_EQ'].map((name) => `SCMP_CMP_${name}`);
const FLAGS = ['TSYNC', 'LOG', 'SPEC_ALLOW', 'WAIT_KILLABLE_RECV'].map((name) => `SECCOMP_FILTER_FLAG_${name}`);

const list = <T extends v.GenericSchema>(item: T) => v.nullish(v.array(item), []);
const action = v.picklist(ACTIONS, (issue) => `unknown action ${issue.received}`);
const errno = v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(4095)));
const number = v.pipe(v.number(), v.integer(), v.minValue(0));
const architecture = v.pipe(
  v.string(),
  v.regex(/^SCMP_ARCH_[A-Z0-9_]+$/, (issue) => `unknown architecture ${issue.received}`),
);

const filterSchema = v.nullish(
  v.object({ caps: list(v.string()), arches: list(v.string()), minKernel: v.nullish(v.string(), '') }),
  { caps: [], arches: [], minKernel: '' },
);

const ruleSchema = v.object({
  name: v.nullish(v.string(), ''),
  names: list(v.string()),
  action,
  errnoRet: errno,
  args: list(
    v.object({
      index: v.pipe(number, v.maxValue(5)),
      value: number,
      valueTwo: v.nullish(number, 0),
      op: v.picklist(OPERATORS, (issue) => `unknown operator ${issue.received}`),
    }),
  ),
  includes: filterSchema,
  excludes: filterSchema,
});

const profileSchema = v.object({
  defaultAction: action,
  defaultErrnoRet: errno,
  architectures: list(architecture),
  archMap: list(v.object({ architecture, subArchitectures: list(architecture) })),
  flags: list(v.picklist(FLAGS, (issue) => `unknown flag ${issue.received}`)),
  listenerPath: v.nullish(v.string(), ''),
  listenerMetadata: v.nullish(v.string(), ''),
  syscalls: list(ruleSchema),
});

/** A profile that has been read and checked, and that still depends on the container. */
export type SeccompProfile = v.InferOutput<typeof profileSchema>;

type Filter = SeccompProfile['syscalls'][number]['includes'];

/** What a profile's conditions are about. */
export interface SeccompTarget {
  /** `CAP_...`. */
  readonly capabilities: readonly string[];
  /** By Node's name. */
  readonly architecture: string;
  /** `6.1.0-13-amd64`. */
  readonly kernel: string;
}

/** Docker's names of architectures, as profiles use them, and libseccomp's, by Node's. */
const NAMES_OF_ARCHITECTURE: Readonly<Record<string, readonly [docker: string, seccomp: string]>> = Object.freeze({
  x64: ['amd64', 'SCMP_ARCH_X86_64'],
  arm64: ['arm64', 'SCMP_ARCH_AARCH64'],
  ppc64: ['ppc64le', 'SCMP_ARCH_PPC64LE'],
  riscv64: ['riscv64', 'SCMP_ARCH_RISCV64'],
  s390x: ['s390x', 'SCMP_ARCH_S390X'],
});

/** Reads a profile. Throws `invalid` that says what is wrong where. */
export function parseSeccompProfile(text: string): SeccompProfile {
  const result = v.safeParse(profileSchema, parseJson(text));
  if (result.success) {
    const unnamed = result.output.syscalls.findIndex((rule) => rule.name === '' && rule.names.length === 0);
    if (unnamed >= 0) throw new BerthError('invalid', `syscalls.${unnamed}: names no system call`);
    return result.output;
  }
  const [issue] = result.issues;
  throw new BerthError('invalid', `${v.getDotPath(issue) ?? 'profile'}: ${issue.message}`);
}

/** The OCI form of a profile for one kind of container: conditions are decided, what does not apply is left out. */
export function compileSeccompProfile(profile: SeccompProfile, target: SeccompTarget): OciSeccomp {
  const { defaultErrnoRet, flags, listenerPath, listenerMetadata } = profile;
  const architectures = chooseArchitectures(profile, target.architecture);
  return {
    defaultAction: profile.defaultAction,
    ...(defaultErrnoRet === null || defaultErrnoRet === undefined ? {} : { defaultErrnoRet }),
    ...(architectures.length > 0 ? { architectures } : {}),
    ...(flags.length > 0 ? { flags } : {}),
    ...(listenerPath === '' ? {} : { listenerPath }),
    ...(listenerMetadata === '' ? {} : { listenerMetadata }),
    syscalls: profile.syscalls.filter((rule) => applies(rule, target)).map(toOciRule),
  };
}

function toOciRule({ name, names, action, errnoRet, args }: SeccompProfile['syscalls'][number]): OciSyscallRule {
  return {
    names: name === '' ? names : [name, ...names],
    action,
    ...(errnoRet === null || errnoRet === undefined ? {} : { errnoRet }),
    ...(args.length > 0 ? { args } : {}),
  };
}

function chooseArchitectures({ architectures, archMap }: SeccompProfile, architecture: string): string[] {
  const own = NAMES_OF_ARCHITECTURE[architecture]?.[1];
  const mapped = archMap.find((entry) => entry.architecture === own);
  return [...new Set([...architectures, ...(mapped ? [mapped.architecture, ...mapped.subArchitectures] : [])])];
}

// Docker's rule: all capabilities of includes are needed and any of excludes rules out; likewise for the others.
function applies({ includes, excludes }: { includes: Filter; excludes: Filter }, target: SeccompTarget): boolean {
  const architecture = NAMES_OF_ARCHITECTURE[target.architecture]?.[0] ?? target.architecture;
  if (includes.arches.length > 0 && !includes.arches.includes(architecture)) return false;
  if (excludes.arches.includes(architecture)) return false;
  if (!includes.caps.every((capability) => target.capabilities.includes(capability))) return false;
  if (excludes.caps.some((capability) => target.capabilities.includes(capability))) return false;
  if (includes.minKernel !== '' && !isAtLeast(target.kernel, includes.minKernel)) return false;
  return excludes.minKernel === '' || !isAtLeast(target.kernel, excludes.minKernel);
}

function isAtLeast(kernel: string, wanted: string): boolean {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = wanted.split('.').map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (err) {
    throw notJson(err);
  }
}

function notJson(cause: unknown): BerthError {
  return new BerthError('invalid', 'it is not JSON', { cause });
}
