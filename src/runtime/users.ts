import { invalid } from '../base/errors.ts';
import type { ContainerSecurity } from './container-spec.ts';
import { appendImageLine, readImageFile } from './image-files.ts';
import type { ProcessUser } from './spec-input.ts';

const FIELD = 'config.linux.security_context';
/** 2^32 - 1 means "leave it as it is" to the kernel (setreuid(2)). */
const MAX_ID = 0xffff_fffe;
/** The kernel's NGROUPS_MAX (setgroups(2)). */
const MAX_GROUPS = 65_536;

/** The wishes that a user is resolved from. */
export interface UserRequest {
  /** Absolute path of the mounted root filesystem. */
  readonly rootfs: string;
  /** The image's USER: `''`, `user`, `user:group`, each a name or a number. */
  readonly imageUser: string;
  readonly security: Pick<
    ContainerSecurity,
    'runAsUser' | 'runAsGroup' | 'runAsUsername' | 'supplementalGroups' | 'supplementalGroupsPolicy'
  >;
}

/** Who a process runs as, and whether the image has lines for it. */
export interface ResolvedUser extends ProcessUser {
  readonly unlisted: { readonly user: boolean; readonly group: boolean };
}

/** One line of a passwd file (passwd(5)). */
export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/** One line of a group file (group(5)). */
export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** A user as it was asked for, and which field to blame when the image doesn't have it. */
interface WantedUser {
  readonly user: string;
  readonly group: string;
  readonly field: string;
}

/**
 * Who a container's first process is: run_as_user, else run_as_username, else the image's USER, else root. Names, the
 * primary group and further memberships come from the image's own passwd and group files. A number needs no entry
 * there; a name does. The primary group is always among the supplemental groups too. Throws `invalid` by field.
 */
export function resolveUser({ rootfs, imageUser, security }: UserRequest): ResolvedUser {
  const wanted = chooseUser(imageUser, security);
  const passwd = findUser(readImageFile(rootfs, '/etc/passwd'), wanted.user);
  const uid = parseId(wanted.user) ?? passwd?.uid;
  if (uid === undefined) throw invalid(wanted.field, `the image has no user ${JSON.stringify(wanted.user)}`);
  const groups = readImageFile(rootfs, '/etc/group');
  const gid = wanted.group === '' ? (passwd?.gid ?? 0) : findGid(groups, wanted);
  const hasGroup = [...parseGroup(groups)].some((entry) => entry.gid === gid);
  const memberships = security.supplementalGroupsPolicy === 'merge' && passwd ? groupsOf(groups, passwd.name) : [];
  const supplementalGroups = [...new Set([gid, ...memberships, ...security.supplementalGroups])];
  checkGroups(supplementalGroups);
  return {
    uid,
    gid,
    supplementalGroups,
    unlisted: { user: !passwd, group: !hasGroup },
    ...(passwd && passwd.home !== '' ? { home: passwd.home } : {}),
  };
}

/**
 * Writes a line for a user and a group that the image does not know into its passwd and group files, as CRI-O does: ssh,
 * git, database servers and Java ask for the name of the user that they are, and give up without one. Into the
 * container's own files rather than mounted over them, so that they stay files like any other. Nothing but numbers goes
 * into a line, and an image without the files, or with root for a user, stays as it is.
 */
export function listUser(rootfs: string, { uid, gid, unlisted }: ResolvedUser): void {
  if (uid === 0) return;
  if (unlisted.user) appendImageLine(rootfs, '/etc/passwd', `${uid}:x:${uid}:${gid}::/:/sbin/nologin`);
  if (unlisted.group && gid !== 0) appendImageLine(rootfs, '/etc/group', `${gid}:x:${gid}:`);
}

/** The entries of a passwd file; lines that aren't of its form are skipped, as the C library does. */
export function* parsePasswd(text: string): Generator<PasswdEntry> {
  for (const line of linesOf(text)) {
    const [name = '', , uidText = '', gidText = '', , home = ''] = line.split(':');
    const uid = parseId(uidText);
    const gid = parseId(gidText);
    if (name !== '' && uid !== undefined && gid !== undefined) yield { name, uid, gid, home };
  }
}

/** The entries of a group file; lines that aren't of its form are skipped. */
export function* parseGroup(text: string): Generator<GroupEntry> {
  for (const line of linesOf(text)) {
    const [name = '', , gidText = '', list = ''] = line.split(':');
    const gid = parseId(gidText);
    if (name === '' || gid === undefined) continue;
    yield { name, gid, members: list.split(',').flatMap((member) => member.trim() || []) };
  }
}

function chooseUser(imageUser: string, security: UserRequest['security']): WantedUser {
  const { runAsUser, runAsGroup, runAsUsername } = security;
  const group = runAsGroup === undefined ? '' : String(checkId(`${FIELD}.run_as_group`, runAsGroup));
  if (runAsUser !== undefined) {
    return { user: String(checkId(`${FIELD}.run_as_user`, runAsUser)), group, field: `${FIELD}.run_as_user` };
  }
  if (runAsUsername !== '') return { user: runAsUsername, group, field: `${FIELD}.run_as_username` };
  // The CRI demands it: a group alone would combine with whatever user the image happens to have.
  if (group !== '') throw invalid(`${FIELD}.run_as_group`, 'needs run_as_user or run_as_username');
  const colon = imageUser.indexOf(':');
  const user = colon < 0 ? imageUser : imageUser.slice(0, colon);
  return { user: user || '0', group: colon < 0 ? '' : imageUser.slice(colon + 1), field: 'USER of the image' };
}

function findUser(passwd: string, wanted: string): PasswdEntry | undefined {
  const uid = parseId(wanted);
  for (const entry of parsePasswd(passwd)) {
    if (uid === undefined ? entry.name === wanted : entry.uid === uid) return entry;
  }
  return undefined;
}

function findGid(groups: string, { group, field }: WantedUser): number {
  const gid = parseId(group);
  if (gid !== undefined) return gid;
  for (const entry of parseGroup(groups)) if (entry.name === group) return entry.gid;
  throw invalid(field, `the image has no group ${JSON.stringify(group)}`);
}

function groupsOf(groups: string, user: string): number[] {
  const gids: number[] = [];
  for (const entry of parseGroup(groups)) if (entry.members.includes(user)) gids.push(entry.gid);
  return gids;
}

function checkGroups(groups: readonly number[]): void {
  const field = `${FIELD}.supplemental_groups`;
  for (const gid of groups) checkId(field, gid);
  if (groups.length > MAX_GROUPS) throw invalid(field, `with those of the image they are more than ${MAX_GROUPS}`);
}

function checkId(field: string, id: number): number {
  if (Number.isInteger(id) && id >= 0 && id <= MAX_ID) return id;
  throw invalid(field, `${id} is not an id between 0 and ${MAX_ID}`);
}

function parseId(text: string): number | undefined {
  return /^[0-9]{1,10}$/.test(text) && Number(text) <= MAX_ID ? Number(text) : undefined;
}

function* linesOf(text: string): Generator<string> {
  for (let at = 0; at < text.length; ) {
    const found = text.indexOf('\n', at);
    const end = found < 0 ? text.length : found;
    const line = text.slice(at, end).trim();
    if (line !== '' && !line.startsWith('#')) yield line;
    at = end + 1;
  }
}
