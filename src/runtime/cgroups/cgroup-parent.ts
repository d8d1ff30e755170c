import { invalid } from '../../base/errors.ts';
import { cgroupOf, type Hierarchy } from './hierarchies.ts';

const FIELD = 'config.linux.cgroup_parent';
/** NAME_MAX: a cgroup is a folder. */
const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 3072;

/**
 * A cgroup parent for the cgroupfs driver as an absolute path without empty or `.` parts; '' becomes `fallback`. The
 * kubelet's are absolute. A relative one counts from the top of the hierarchy too (the OCI runtime specification leaves
 * the place to the runtime): where berthd itself runs must not matter to pods. Throws `invalid` for what climbs, is no file name, or belongs to systemd.
 */
export function normaliseCgroupfsParent(parent: string, fallback: string): string {
  if (parent === '') return fallback;
  const parts = parent.split('/').filter((part) => part !== '' && part !== '.');
  checkParts(parent, parts);
  if (parts.at(-1)?.endsWith('.slice')) {
    throw invalid(FIELD, `${JSON.stringify(parent)} is a systemd slice, and the cgroup driver is cgroupfs`);
  }
  return `/${parts.join('/')}`;
}

/**
 * The slice that a cgroup parent names for the systemd driver; '' becomes `fallback`. A path is accepted when it is
 * the slice's own place, `/kubepods.slice/kubepods-besteffort.slice`. Throws `invalid` for anything else.
 */
export function normaliseSlice(parent: string, fallback: string): string {
  if (parent === '') return fallback;
  const parts = parent.split('/').filter((part) => part !== '' && part !== '.');
  checkParts(parent, parts);
  const slice = parts.at(-1) ?? '';
  if (!slice.endsWith('.slice')) {
    throw invalid(FIELD, `${JSON.stringify(parent)} must end with .slice, as the cgroup driver is systemd`);
  }
  // systemd.slice(5): dashes separate levels, so none may be first, last or doubled; `-.slice` is the root.
  if (slice !== '-.slice' && !/^[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice$/.test(slice)) {
    throw invalid(FIELD, `${JSON.stringify(parent)} is not the name of a slice`);
  }
  if (parts.length > 1 && `/${parts.join('/')}` !== slicePath(slice)) {
    throw invalid(FIELD, `${JSON.stringify(parent)} is not where systemd puts ${slice} (${slicePath(slice)})`);
  }
  return slice;
}

/** Where systemd puts a slice: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5)). The root slice is ''. */
export function slicePath(slice: string): string {
  if (slice === '-.slice') return '';
  const parts = slice.slice(0, -'.slice'.length).split('-');
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('-')}.slice`).join('');
}

/**
 * The innermost slice that a process is in, by the text of its /proc/PID/cgroup: in the hierarchy that systemd keeps, of
 * v1 the one of its name. The root slice for a process outside of all others.
 */
export function sliceOf(hierarchies: readonly Hierarchy[], procCgroup: string): string {
  const kept = hierarchies.find(({ name }) => name === 'systemd') ?? hierarchies.find(({ version }) => version === 2);
  let slice = '-.slice';
  for (const part of ((kept && cgroupOf(procCgroup, kept)) ?? '').split('/').slice(1)) {
    if (!part.endsWith('.slice')) break;
    slice = part;
  }
  return slice;
}

function checkParts(parent: string, parts: readonly string[]): void {
  const shown = JSON.stringify(parent.slice(0, 200));
  if (/[\x00-\x1f\x7f]/.test(parent)) throw invalid(FIELD, `${shown} has a control character`);
  if (parts.includes('..')) throw invalid(FIELD, `${shown} must not contain ..`);
  if (Buffer.byteLength(parent) > MAX_PATH_BYTES) throw invalid(FIELD, `${shown}... is too long`);
  if (parts.some((part) => Buffer.byteLength(part) > MAX_NAME_BYTES))
    throw invalid(FIELD, `${shown} has a part that is too long`);
}
