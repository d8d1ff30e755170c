/** How much of a runtime's text goes into an error: more helps nobody. */

import { readFileSync } from 'node:fs';

const LONGEST_MESSAGE = 2000;

/**
 * What an OCI runtime had to say, as one line: the messages of its errors when it logged JSON (`--log-format json`),
 * else its text as it is. Programs that it ran may have written between its lines.
 */
export function runtimeMessage(text: string): string {
  const lines = text.split('\n').map((line) => line.trim());
  const errors = lines.flatMap((line) => parseErrorLine(line) ?? []);
  const parts = errors.length > 0 ? errors : lines.filter((line) => line !== '');
  return [...new Set(parts)].join('; ').slice(0, LONGEST_MESSAGE);
}

/** True when a runtime's message says that it knows no such container: runc's words, then crun's. */
export function saysNoContainer(message: string): boolean {
  return (
    message.includes('container does not exist') ||
    /status['`]?: No such file or directory/.test(message) ||
    /cannot open directory .*: No such file or directory/.test(message)
  );
}

/** True when a runtime's message says that the program to run is not there or cannot be run. */
export function saysNoCommand(message: string): boolean {
  return /executable file .*not found|\bexec: .*(no such file or directory|permission denied|not a directory|is a directory|too many levels of symbolic links|file name too long|argument list too long)|start container process: eaccess |exec format error|open executable/i.test(
    message,
  );
}

/** Files of both cgroup versions, the more special ones first, and the fields of LinuxContainerResources behind them. */
const LIMIT_FILES: readonly (readonly [RegExp, string])[] = [
  [/cpuset\.mems/, 'cpuset_mems'],
  [/cpuset\.cpus/, 'cpuset_cpus'],
  [/memory\.(memsw|swap)/, 'memory_swap_limit_in_bytes'],
  [/memory\.(limit_in_bytes|max)/, 'memory_limit_in_bytes'],
  [/hugetlb\./, 'hugepage_limits'],
  // crun's words for a key whose controller the kernel lacks, or does not know.
  [/unified|requested cgroup controller/, 'unified'],
  [/cpu\.cfs_period/, 'cpu_period'],
  [/cpu\.(cfs_quota|max)/, 'cpu_quota'],
  [/cpu\.(shares|weight)/, 'cpu_shares'],
];

/** Words of both runtimes that name no file: of a limit below what is in use, and of one that the start does not fit into. */
const LOW_MEMORY = /memory limit could be too low|container init was OOM-killed|unable to set memory limit/;

/**
 * Which limit a runtime's message says the kernel refused, as the CRI calls its field; undefined when it is about
 * something else. Both runtimes mostly name the file that they wrote to.
 */
export function refusedLimit(message: string): string | undefined {
  if (LOW_MEMORY.test(message)) return 'memory_limit_in_bytes';
  if (!/writ|open|set|invalid|unified|requested/i.test(message)) return undefined;
  return LIMIT_FILES.find(([file]) => file.test(message))?.[1];
}

/** What a person needs to know beside the kernel's refusal of a limit: which processors and memory nodes there are. */
export function limitAdvice(limit: string): string {
  const [file, what] = LISTS[limit] ?? [];
  if (file === undefined) return '';
  try {
    return ` (this node has ${what} ${readFileSync(file, 'utf8').trim()})`;
  } catch {
    // A kernel without NUMA has no such file.
    return '';
  }
}

/** sysfs-devices-system-cpu and sysfs-devices-node of the kernel's ABI documentation. */
const LISTS: Readonly<Record<string, readonly [file: string, what: string]>> = Object.freeze({
  cpuset_cpus: ['/sys/devices/system/cpu/online', 'CPUs'],
  cpuset_mems: ['/sys/devices/system/node/online', 'memory nodes'],
});

function parseErrorLine(line: string): string | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    const entry: unknown = JSON.parse(line);
    if (typeof entry !== 'object' || entry === null || !('msg' in entry) || typeof entry.msg !== 'string')
      return undefined;
    const level = 'level' in entry ? entry.level : undefined;
    return level === 'error' || level === 'fatal' || level === 'panic' ? entry.msg : undefined;
  } catch {
    return undefined;
  }
}
