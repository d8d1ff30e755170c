import type { ContainerSecurity } from '../runtime/container-spec.ts';
import type { SelinuxLabels } from '../runtime/selinux.ts';
import type { PodDeps } from './pod-deps.ts';
import type { SandboxRecord } from './records.ts';

/** What labels follow from, of a container or of its pod. */
type Wishes = Pick<ContainerSecurity, 'selinux' | 'privileged' | 'namespaces'>;

/**
 * The SELinux labels of one of a sandbox's containers, or of the sandbox's own files; undefined where SELinux is off. A
 * container without wishes has those of its pod.
 */
export function selinuxLabels(
  { security }: PodDeps,
  sandbox: SandboxRecord,
  { selinux, privileged, namespaces }: Wishes,
): SelinuxLabels | undefined {
  if (sandbox.selinuxLevel === undefined) return undefined;
  const own = sandbox.spec.security.selinux;
  return security.selinux.labelsFor({
    options: selinux ?? own,
    level: own?.level || sandbox.selinuxLevel,
    isUnbounded: privileged || namespaces.pid === 'node' || namespaces.ipc === 'node',
  });
}

/** A level that no other sandbox has; undefined where SELinux is off. */
export function newSelinuxLevel({ security, sandboxes }: PodDeps): string | undefined {
  if (!security.selinux.isEnabled) return undefined;
  return security.selinux.newLevel(new Set(sandboxes.all().flatMap(({ selinuxLevel }) => selinuxLevel ?? [])));
}
