/** How much of a runtime's text goes into an error: more helps nobody. */
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
  return /executable file .*not found|\bexec: .*(no such file or directory|permission denied|is a directory)|exec format error|open executable/i.test(
    message,
  );
}

/**
 * Which limit a runtime's message says the kernel refused, in the words of the CRI's field; undefined when it is about
 * something else. Both runtimes name the file that they wrote to.
 */
export function refusedLimit(message: string): 'cpuset' | 'memory' | 'hugepage_limits' | 'unified' | 'cpu' | undefined {
  if (/memory limit could be too low|container init was OOM-killed/.test(message)) return 'memory';
  if (!/writ|open|set|invalid|unified/i.test(message)) return undefined;
  if (/cpuset\.(cpus|mems)/.test(message)) return 'cpuset';
  if (/memory\.(limit_in_bytes|memsw|max|swap)/.test(message)) return 'memory';
  if (/hugetlb\./.test(message)) return 'hugepage_limits';
  if (/unified/.test(message)) return 'unified';
  if (/cpu\.(cfs_|max|shares|weight|rt_)/.test(message)) return 'cpu';
  return undefined;
}

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
