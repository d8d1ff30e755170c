/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). Paths are decoded; text that is not UTF-8 is replaced. */
export interface MountInfo {
  readonly id: number;
  readonly parentId: number;
  /** `major:minor` of the file system. */
  readonly device: string;
  /** The folder of the file system that is mounted; `net:[4026531840]` for a pinned namespace. */
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** `shared:1`, `master:2`, ...; empty for a private mount. */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** Parses the whole file; lines that do not have the documented form are left out. */
export function parseMountInfo(text: string): MountInfo[] {
  return text.split('\n').flatMap((line) => parseLine(line) ?? []);
}

function parseLine(line: string): MountInfo | undefined {
  const fields = line.split(' ');
  const dash = fields.indexOf('-', 6);
  const [id, parentId, device, root, mountPoint, options] = fields;
  const [type, source, superOptions] = fields.slice(dash + 1);
  if (dash < 0 || !root || !mountPoint || !device || type === undefined || source === undefined) return undefined;
  return {
    id: Number(id),
    parentId: Number(parentId),
    device,
    root: decodeOctal(root),
    mountPoint: decodeOctal(mountPoint),
    options: options?.split(',') ?? [],
    propagation: fields.slice(6, dash),
    type,
    source: decodeOctal(source),
    superOptions: superOptions?.split(',') ?? [],
  };
}

/** Space, tab, newline and backslash are written as three octal digits. */
function decodeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
