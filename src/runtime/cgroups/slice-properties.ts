import type { LinuxResources } from '../container-spec.ts';
import type { DbusValue } from './dbus-codec.ts';
import type { CgroupMode } from './hierarchies.ts';
import { swapAlone, weightOf } from './pod-limits.ts';
import type { UnitProperty } from './systemd-manager.ts';

/** systemd's "infinity". */
export const NO_LIMIT = 0xffff_ffff_ffff_ffffn;
const DEFAULT_PERIOD_US = 100_000;
/** A kernel has 8192 processors at most (CONFIG_NR_CPUS). */
const MAX_CPUS = 8192;

/** Files of cgroup v2 that hold one number or `max`, and what systemd calls them. */
const NUMBER_FILES: Readonly<Record<string, string>> = Object.freeze({
  'cpu.weight': 'CPUWeight',
  'io.weight': 'IOWeight',
  'memory.max': 'MemoryMax',
  'memory.high': 'MemoryHigh',
  'memory.low': 'MemoryLow',
  'memory.min': 'MemoryMin',
  'memory.swap.max': 'MemorySwapMax',
  'pids.max': 'TasksMax',
});
const CPU_SET_FILES: Readonly<Record<string, string>> = Object.freeze({
  'cpuset.cpus': 'AllowedCPUs',
  'cpuset.mems': 'AllowedMemoryNodes',
});

/**
 * The limits that a unit can have (systemd.resource-control(5)), by their names on D-Bus (org.freedesktop.systemd1(5)).
 * What systemd has no property for stays in the cgroup's files alone. A file that is named (`unified`) comes after what
 * it overrides.
 */
export function sliceProperties(mode: CgroupMode, resources: LinuxResources): UnitProperty[] {
  const { cpuShares, memoryLimitBytes, memorySwapLimitBytes, cpusetCpus, cpusetMems, unified } = resources;
  const properties: UnitProperty[] = [];
  if (cpuShares) {
    properties.push(
      mode === 'v2' ? number('CPUWeight', BigInt(weightOf(cpuShares))) : number('CPUShares', BigInt(cpuShares)),
    );
  }
  if (resources.cpuQuotaUs) properties.push(...quota(resources.cpuQuotaUs, resources.cpuPeriodUs));
  if (memoryLimitBytes) {
    const limit = memoryLimitBytes > 0 ? BigInt(memoryLimitBytes) : NO_LIMIT;
    properties.push(number(mode === 'v2' ? 'MemoryMax' : 'MemoryLimit', limit));
  }
  if (mode !== 'v2') return properties;
  if (memorySwapLimitBytes) {
    properties.push(...ofFile('memory.swap.max', swapAlone(memorySwapLimitBytes, memoryLimitBytes ?? 0)));
  }
  if (cpusetCpus) properties.push(...ofFile('cpuset.cpus', cpusetCpus));
  if (cpusetMems) properties.push(...ofFile('cpuset.mems', cpusetMems));
  const files = Object.entries(unified).flatMap(([file, value]) => ofFile(file, value));
  const overridden = new Set(files.map(({ name }) => name));
  return [...properties.filter(({ name }) => !overridden.has(name)), ...files];
}

/** The properties of what is in a cgroup's files; `read` tells what a file says. */
export function propertiesInForce(read: (file: string) => string | undefined): UnitProperty[] {
  return ['cpu.max', ...Object.keys({ ...NUMBER_FILES, ...CPU_SET_FILES })].flatMap((file) => {
    const value = read(file);
    return value === undefined ? [] : ofFile(file, value);
  });
}

/**
 * Annotations by which runc and crun start a container's scope on cgroup v2 (`org.systemd.property.NAME`). crun tells
 * systemd of few limits, and what it does not know it undoes with its next reload. Without a limit of its own a scope
 * would have one from systemd (DefaultTasksMax). The weight is left to the runtime, which knows better than one line
 * from shares to it. crun before 1.22 put the container into a cgroup below the scope, limits and all, where neither
 * the kubelet's cAdvisor nor Berth looks for them.
 */
export function scopeAnnotations(resources: LinuxResources, pidsLimit: number | undefined): Record<string, string> {
  const { cpuShares: _, ...limits } = resources;
  const swap = limits.memorySwapLimitBytes || limits.memoryLimitBytes;
  const known = sliceProperties('v2', { ...limits, ...(swap ? { memorySwapLimitBytes: swap } : {}) });
  const tasks = pidsLimit !== undefined && pidsLimit > 0 ? BigInt(pidsLimit) : NO_LIMIT;
  return {
    'run.oci.systemd.subgroup': '',
    ...Object.fromEntries(
      [number('TasksMax', tasks), ...known]
        .filter(({ signature }) => signature === 't')
        .map(({ name, value }) => [`org.systemd.property.${name}`, `uint64 ${String(value)}`]),
    ),
  };
}

function ofFile(file: string, value: string): UnitProperty[] {
  const name = NUMBER_FILES[file];
  if (name !== undefined && /^(max|\d{1,19})$/.test(value))
    return [number(name, value === 'max' ? NO_LIMIT : BigInt(value))];
  const set = CPU_SET_FILES[file];
  const mask = set === undefined ? undefined : bitMask(value);
  if (set !== undefined && mask) return [{ name: set, signature: 'ay', value: mask }];
  const [, quotaUs, periodUs] = (file === 'cpu.max' && /^(max|\d{1,15})(?: (\d{1,9}))?$/.exec(value)) || [];
  if (quotaUs !== undefined) return quota(quotaUs === 'max' ? -1 : Number(quotaUs), Number(periodUs ?? 0));
  return [];
}

function number(name: string, value: bigint): UnitProperty {
  return { name, signature: 't', value };
}

/** systemd knows no cgroup without a period, and what a period may have is counted for a second. */
function quota(quotaUs: number, periodUs: number | undefined): UnitProperty[] {
  const perSecondUs = BigInt(Math.ceil((quotaUs * 1_000_000) / (periodUs || DEFAULT_PERIOD_US)));
  return [
    number('CPUQuotaPerSecUSec', quotaUs > 0 ? perSecondUs : NO_LIMIT),
    ...(periodUs ? [number('CPUQuotaPeriodUSec', BigInt(periodUs))] : []),
  ];
}

/**
 * A list of the kernel's such as `0-2,7` (cpuset(7), "List format") as systemd wants it: bit n of the bytes stands for
 * processor n. Undefined for what is no such list.
 */
export function bitMask(list: string): DbusValue[] | undefined {
  const bytes: number[] = [];
  for (const part of list.trim().split(',')) {
    const [, first = '', last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part) ?? [];
    if (first === '' || Number(last) < Number(first) || Number(last) >= MAX_CPUS) return undefined;
    for (let bit = Number(first); bit <= Number(last); bit++) {
      while (bytes.length <= bit >> 3) bytes.push(0);
      bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (1 << (bit & 7));
    }
  }
  return bytes;
}
