import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { rm, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';

import { invalid, wrap } from '../base/errors.ts';
import { toHostId } from '../base/id-mapping.ts';
import { forEachLimited } from '../base/limited.ts';
import type { UserNamespaceSpec } from '../runtime/container-spec.ts';
import { SPARE_MARK } from '../runtime/pod-folders.ts';
import { relabelFile } from '../runtime/relabel.ts';
import { MS_NODEV, MS_NOEXEC, MS_NOSUID, mountAside, unmountAside } from '../sys/mount.ts';
import type { DnsConfig, SandboxSpec } from './sandbox-spec.ts';

/** 64 MiB, as every runtime gives a pod's /dev/shm. */
const SHM_BYTES = 64 * 1024 * 1024;

/** Where the files of one sandbox are. */
export interface SandboxPaths {
  /** In the state folder, gone after a reboot: what a container can fill must not lie here. */
  readonly folder: string;
  /** Holds one bind mount per namespace that the sandbox made. */
  readonly namespaces: string;
  /** There until a pod takes what was made for a pod that is yet to come. */
  readonly spareMark: string;
  /** Mount point of the pod's /dev/shm. */
  readonly shm: string;
  /** On the root folder's disk, for the files below: containers may write to them, as much as to their own disk. */
  readonly files: string;
  readonly hostname: string;
  readonly resolvConf: string;
  readonly hosts: string;
}

/** Where sandboxes have their folders; see PodDeps. */
export interface SandboxDirs {
  readonly stateDir: string;
  readonly sandboxDir: string;
}

/** The paths of a sandbox's files. */
export function sandboxPaths({ stateDir, sandboxDir }: SandboxDirs, id: string): SandboxPaths {
  const [folder, files] = [join(stateDir, 'sandboxes', id), join(sandboxDir, id)];
  return {
    folder,
    namespaces: join(folder, 'ns'),
    spareMark: join(folder, SPARE_MARK),
    shm: join(folder, 'shm'),
    files,
    hostname: join(files, 'hostname'),
    resolvConf: join(files, 'resolv.conf'),
    hosts: join(files, 'hosts'),
  };
}

/** Makes the sandbox's folders, readable by root only. */
export function makeSandboxFolders(paths: SandboxPaths): void {
  for (const path of [paths.namespaces, paths.files]) mkdirSync(path, { recursive: true, mode: 0o700 });
}

/** Removes the sandbox's folders and all files in them. Mounts below must be gone. Missing folders are fine. */
export async function removeSandboxFolders(paths: SandboxPaths): Promise<void> {
  await removeKnown([paths.hostname, paths.resolvConf, paths.hosts], [paths.files]);
  await removeKnown([], [paths.namespaces, paths.shm, paths.folder]);
}

// By name: reading folders costs more than removing what is in them. The last folder has all others below it. By the
// pool: of a file that containers had mounted the kernel takes these mounts away too, and waits for whoever changes others.
async function removeKnown(files: readonly string[], folders: readonly string[]): Promise<void> {
  try {
    await forEachLimited(files, files.length, async (file) => await unlink(file));
    for (const folder of folders) await rmdir(folder);
  } catch {
    // Something is not there, or something else is.
    for (const folder of folders.slice(-1)) await rm(folder, { recursive: true, force: true });
  }
}

/**
 * Writes hostname and resolv.conf, and mounts the pod's own /dev/shm unless it uses the host's; all with an SELinux
 * label if there is one.
 */
export async function writeSandboxFiles(
  paths: SandboxPaths,
  spec: SandboxSpec,
  hostname: string,
  label?: string,
): Promise<void> {
  writeReadable(paths.hostname, `${hostname}\n`);
  if (spec.dns === undefined || isEmpty(spec.dns)) copyReadable('/etc/resolv.conf', paths.resolvConf);
  else writeReadable(paths.resolvConf, renderResolvConf(spec.dns));
  if (spec.security.namespaces.ipc !== 'node') await mountShm(paths.shm, spec.security.namespaces.user, label);
  if (label !== undefined) for (const path of [paths.hostname, paths.resolvConf]) relabelFile(path, label);
}

/** Unmounts /dev/shm. Safe to repeat. */
export async function unmountSandboxFiles(paths: SandboxPaths): Promise<void> {
  await unmountAside(paths.shm);
}

/**
 * Writes /etc/hosts for containers whose client brings none (the kubelet mounts its own): the host's for pods on the
 * host's network, otherwise localhost and the pod's own name and addresses.
 */
export function writeHosts(paths: SandboxPaths, spec: SandboxSpec, hostname: string, ips: readonly string[]): void {
  if (spec.security.namespaces.network === 'node') {
    copyReadable('/etc/hosts', paths.hosts);
    return;
  }
  const lines = [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    'fe00::\tip6-localnet',
    'ff02::1\tip6-allnodes',
    'ff02::2\tip6-allrouters',
    ...ips.map((ip) => `${ip}\t${hostname}`),
  ];
  writeReadable(paths.hosts, `${lines.join('\n')}\n`);
}

/** resolv.conf(5) for a DNS configuration. Throws `invalid` for a value that would break out of its line. */
export function renderResolvConf(dns: DnsConfig): string {
  for (const [field, values] of Object.entries({
    'config.dns_config.servers': dns.servers,
    'config.dns_config.searches': dns.searches,
    'config.dns_config.options': dns.options,
  })) {
    const bad = values.find((value) => !/^[^\s#;]+$/.test(value));
    if (bad !== undefined) throw invalid(field, `${JSON.stringify(bad)} is not one word`);
  }
  const lines = dns.servers.map((server) => `nameserver ${server}`);
  if (dns.searches.length > 0) lines.unshift(`search ${dns.searches.join(' ')}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(' ')}`);
  return `${lines.join('\n')}\n`;
}

function isEmpty(dns: DnsConfig): boolean {
  return dns.servers.length + dns.searches.length + dns.options.length === 0;
}

async function mountShm(target: string, user: UserNamespaceSpec | undefined, label: string | undefined): Promise<void> {
  const owner = user ? `,uid=${toHostId(user.uids, 0)},gid=${toHostId(user.gids, 0)}` : '';
  // Quoted, since a label may have commas in it.
  const context = label === undefined ? '' : `,context="${label}"`;
  mkdirSync(target, { recursive: true, mode: 0o700 });
  await mountAside({
    source: 'shm',
    target,
    type: 'tmpfs',
    flags: MS_NOSUID | MS_NODEV | MS_NOEXEC,
    data: `mode=1777,size=${SHM_BYTES}${owner}${context}`,
  });
}

// Containers of any user read these files through a bind mount, whatever umask the daemon was started with.
function writeReadable(path: string, text: string): void {
  writeFileSync(path, text);
  chmodSync(path, 0o644);
}

function copyReadable(from: string, to: string): void {
  try {
    copyFileSync(from, to);
  } catch (err) {
    if (!(err instanceof Error && 'code' in err && err.code === 'ENOENT')) throw wrap(`copy ${from}`, err);
    writeFileSync(to, '');
  }
  chmodSync(to, 0o644);
}
