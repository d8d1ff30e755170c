import type { SandboxSpec } from './sandbox-spec.ts';

/** The name of a pod's interface, as the kubelet's statistics expect it. */
export const POD_INTERFACE = 'eth0';

/** The name that makes a sandbox unique among retries: the kubelet counts `attempt` up for a new one. */
export function sandboxName(spec: Pick<SandboxSpec, 'name' | 'namespace' | 'uid' | 'attempt'>): string {
  return ['k8s', spec.name, spec.namespace, spec.uid, spec.attempt].join('_');
}

/** The name that makes a container unique within its sandbox among retries. */
export function containerName(
  container: { name: string; attempt: number },
  sandbox: SandboxSpec,
  sandboxId: string,
): string {
  // The sandbox's id belongs to it: the kubelet restarts the attempts of a container in a new sandbox of the same pod.
  return [
    'k8s',
    container.name,
    sandbox.name,
    sandbox.namespace,
    sandbox.uid,
    container.attempt,
    sandboxId.slice(0, 12),
  ].join('_');
}
