import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

import { type Hierarchy, modeOf } from '../runtime/cgroups/hierarchies.ts';
import { isKernelAtLeast } from '../runtime/host-facts.ts';
import { readCapabilities } from '../sys/capabilities.ts';
import type { Finding } from './finding.ts';

/** What the findings are made from; tests hand in their own. */
export interface KernelFacts {
  /** As `uname -r`. */
  readonly release: string;
  /** Names in /proc/self/ns. */
  readonly namespaces: ReadonlySet<string>;
  readonly hasSeccomp: boolean;
  readonly capabilities: ReadonlySet<string>;
  readonly hierarchies: readonly Hierarchy[];
  /** All controllers, of both cgroup versions. */
  readonly controllers: ReadonlySet<string>;
}

const NAMESPACES = ['mnt', 'net', 'ipc', 'uts', 'pid'] as const;
/** Without them pods cannot be made; root has them all, unless something took them away. */
const CAPABILITIES = [
  'CAP_SYS_ADMIN',
  'CAP_NET_ADMIN',
  'CAP_SYS_CHROOT',
  'CAP_MKNOD',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_KILL',
  'CAP_SETUID',
  'CAP_SETGID',
] as const;
/** What a container's limits need. v2 limits devices by a program, without a controller. */
const CONTROLLERS = { v1: ['cpu', 'cpuset', 'memory', 'pids', 'devices'], v2: ['cpu', 'cpuset', 'memory', 'pids'] };

/** Asks the kernel that berthd would run on. */
export function readKernelFacts(hierarchies: readonly Hierarchy[]): KernelFacts {
  const v2 = hierarchies.find(({ version }) => version === 2);
  const listed = v2 ? readFileSync(join(v2.mountPoint, 'cgroup.controllers'), 'utf8').trim().split(' ') : [];
  return {
    release: release(),
    namespaces: new Set([...NAMESPACES, 'user'].filter((name) => existsSync(`/proc/self/ns/${name}`))),
    hasSeccomp: existsSync('/proc/sys/kernel/seccomp/actions_avail'),
    capabilities: readCapabilities(),
    hierarchies,
    controllers: new Set([...listed, ...hierarchies.flatMap(({ controllers }) => controllers)]),
  };
}

/** What the kernel lacks. */
export function kernelFindings(facts: KernelFacts): Finding[] {
  return [...versionFindings(facts), ...featureFindings(facts), ...cgroupFindings(facts)];
}

function versionFindings({ release: version }: KernelFacts): Finding[] {
  const subject = `kernel ${version}`;
  const remedy = 'boot a newer kernel; on Debian: apt-get install linux-image-amd64, then reboot';
  if (!isKernelAtLeast(version, 5, 6))
    return [
      { severity: 'error', subject, message: 'Berth needs Linux 5.6 (openat2): images cannot be unpacked', remedy },
    ];
  if (isKernelAtLeast(version, 6, 3)) return [];
  const older = isKernelAtLeast(version, 5, 12) ? '' : ', and mounts cannot be read-only all the way down (Linux 5.12)';
  const message = `pods with a user namespace cannot run (Linux 6.3)${older}`;
  return [{ severity: 'info', subject, message, remedy }];
}

function featureFindings({ namespaces, hasSeccomp, capabilities }: KernelFacts): Finding[] {
  const found: Finding[] = NAMESPACES.filter((name) => !namespaces.has(name)).map((name) => ({
    severity: 'error',
    subject: `${name} namespaces`,
    message: 'this kernel has none: no pod can be kept apart from the host',
    remedy: `boot a kernel built with CONFIG_NAMESPACES and all kinds; zgrep _NS= /proc/config.gz shows them`,
  }));
  if (!hasSeccomp)
    found.push({
      severity: 'warning',
      subject: 'seccomp',
      message: 'this kernel has none: containers that ask for a profile (RuntimeDefault too) cannot start',
      remedy: 'boot a kernel built with CONFIG_SECCOMP_FILTER',
    });
  const missing = CAPABILITIES.filter((name) => !capabilities.has(name));
  if (missing.length > 0)
    found.push({
      severity: 'error',
      subject: 'capabilities',
      message: `root lacks ${missing.join(', ')} here: pods cannot be made`,
      remedy:
        'run berthd on the host itself, or with these capabilities; grep Cap /proc/self/status shows what is left',
    });
  return found;
}

function cgroupFindings({ hierarchies, controllers }: KernelFacts): Finding[] {
  if (hierarchies.length === 0)
    return [
      {
        severity: 'error',
        subject: 'cgroups',
        message: 'none is mounted: containers cannot be limited, counted or found again',
        remedy: 'mount -t cgroup2 cgroup2 /sys/fs/cgroup',
      },
    ];
  const mode = modeOf(hierarchies);
  const missing = CONTROLLERS[mode === 'v2' ? 'v2' : 'v1'].filter((name) => !controllers.has(name));
  if (missing.length === 0) return [];
  return [
    {
      severity: 'warning',
      subject: 'cgroups',
      message: `the controllers ${missing.join(', ')} are missing (${mode}): limits that need them do nothing, or are refused`,
      remedy: missing.includes('memory')
        ? 'boot with cgroup_enable=memory; cat /proc/cgroups shows what the kernel has'
        : 'cat /proc/cgroups shows what the kernel has; boot one that has them',
    },
  ];
}
