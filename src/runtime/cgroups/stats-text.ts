/** The formats of the cgroup file systems' statistics (Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst). */

/** The kernel rounds "no limit" of v1 down to pages; cAdvisor and the kubelet draw the line here too. */
const NO_LIMIT_FROM = 2 ** 62;
/** Devices that are counted for one cgroup; a machine has fewer. */
const MAX_DEVICES = 256;

/** A file that is one number; undefined for anything else. */
export function parseCount(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+\n?$/.test(text) ? Number(text) : undefined;
}

/** A limit: a number, or Infinity for `max`, -1 and numbers that mean the same; undefined for anything else. */
export function parseLimit(text: string | undefined): number | undefined {
  if (text === 'max\n' || text === 'max' || text === '-1\n' || text === '-1') return Number.POSITIVE_INFINITY;
  const limit = parseCount(text);
  return limit !== undefined && limit >= NO_LIMIT_FROM ? Number.POSITIVE_INFINITY : limit;
}

/** The number behind `key` in lines of `key number`; undefined when it isn't there. */
export function parseField(text: string | undefined, key: string): number | undefined {
  if (text === undefined) return undefined;
  const needle = `${key} `;
  // Not by lines: memory.stat has fifty, of which a few are wanted.
  let at = text.startsWith(needle) ? 0 : text.indexOf(`\n${needle}`) + 1;
  if (at === 0 && !text.startsWith(needle)) return undefined;
  at += needle.length;
  const end = text.indexOf('\n', at);
  return parseCount(text.slice(at, end === -1 ? undefined : end));
}

/** One line of a pressure file: shares of time in percent, and their sum (Documentation/accounting/psi.rst). */
export interface PressureLine {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly totalUs: number;
}

/** How long processes have waited for something: at least one of them, and all of them at once. */
export interface Pressure {
  readonly some: PressureLine;
  readonly full: PressureLine;
}

const NO_PRESSURE: PressureLine = Object.freeze({ avg10: 0, avg60: 0, avg300: 0, totalUs: 0 });

/** A pressure file; undefined when it has no `some` line. Before Linux 5.13, cpu.pressure has no `full` line: zeros. */
export function parsePressure(text: string | undefined): Pressure | undefined {
  const some = parsePressureLine(text, 'some');
  return some && { some, full: parsePressureLine(text, 'full') ?? NO_PRESSURE };
}

function parsePressureLine(text: string | undefined, kind: 'some' | 'full'): PressureLine | undefined {
  const pattern = /^(some|full) avg10=(\d+(?:\.\d+)?) avg60=(\d+(?:\.\d+)?) avg300=(\d+(?:\.\d+)?) total=(\d+)$/gm;
  for (const [, name, avg10, avg60, avg300, total] of (text ?? '').matchAll(pattern)) {
    if (name === kind) {
      return { avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300), totalUs: Number(total) };
    }
  }
  return undefined;
}

/** What a cgroup has read from and written to one block device. */
export interface DeviceIo {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly reads: number;
  readonly writes: number;
}

/** v2's io.stat, `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`. Lines that say nothing of it are left out. */
export function parseIoStat(text: string | undefined): DeviceIo[] {
  const devices = new Map<string, DeviceIo>();
  for (const [, device = '', fields = ''] of (text ?? '').matchAll(/^(\d+:\d+) (.*)$/gm)) {
    if (devices.size >= MAX_DEVICES) break;
    const value = (key: string): number => Number(new RegExp(`(?:^| )${key}=(\\d+)(?: |$)`).exec(fields)?.[1] ?? 0);
    if (!/(?:^| )rbytes=\d/.test(fields)) continue;
    devices.set(device, {
      ...numbersOf(device),
      readBytes: value('rbytes'),
      writtenBytes: value('wbytes'),
      reads: value('rios'),
      writes: value('wios'),
    });
  }
  return [...devices.values()];
}

/** v1's blkio files, `8:0 Read 1` and `8:0 Write 2`: one counts bytes, the other operations. */
export function parseBlkio(bytes: string | undefined, operations: string | undefined): DeviceIo[] {
  const done = parseBlkioFile(operations);
  return [...parseBlkioFile(bytes)].map(([device, { read, written }]) => ({
    ...numbersOf(device),
    readBytes: read,
    writtenBytes: written,
    reads: done.get(device)?.read ?? 0,
    writes: done.get(device)?.written ?? 0,
  }));
}

function parseBlkioFile(text: string | undefined): Map<string, { read: number; written: number }> {
  const devices = new Map<string, { read: number; written: number }>();
  for (const [, device = '', operation, value] of (text ?? '').matchAll(/^(\d+:\d+) (Read|Write) (\d+)$/gm)) {
    const counts = devices.get(device) ?? { read: 0, written: 0 };
    if (operation === 'Read') counts.read = Number(value);
    else counts.written = Number(value);
    if (devices.size < MAX_DEVICES || devices.has(device)) devices.set(device, counts);
  }
  return devices;
}

function numbersOf(device: string): { major: number; minor: number } {
  const [major, minor] = device.split(':');
  return { major: Number(major), minor: Number(minor) };
}
