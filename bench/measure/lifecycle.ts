import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import {
  type ContainerConfig,
  CreateContainerRequest,
  ExecSyncRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxConfig,
  RemoveContainerRequest,
  RemovePodSandboxRequest,
  RunPodSandboxRequest,
  RuntimeServiceService,
  SecurityProfile_ProfileType,
  StartContainerRequest,
  StopContainerRequest,
  StopPodSandboxRequest,
} from '../../proto/gen/cri/api.ts';
import type { Connection } from '../../src/cli/connection.ts';

/** The calls of one pod's life, in order. */
export const CALLS = [
  'RunPodSandbox',
  'CreateContainer',
  'StartContainer',
  'ExecSync',
  'StopContainer',
  'RemoveContainer',
  'StopPodSandbox',
  'RemovePodSandbox',
] as const;

export type Call = (typeof CALLS)[number];

/** Sums that a kubelet waits for. */
export const SUMS: Readonly<Record<'pod up' | 'pod down', readonly Call[]>> = Object.freeze({
  'pod up': ['RunPodSandbox', 'CreateContainer', 'StartContainer'],
  'pod down': ['StopContainer', 'RemoveContainer', 'StopPodSandbox', 'RemovePodSandbox'],
});

/** How long each call of one pod's life took, in milliseconds. */
export type Sample = Readonly<Record<Call, number>>;

/** What pods are made of. */
export interface PodWish {
  /** Reference, or the id that it stands for, which is what a kubelet asks for. */
  readonly image: string;
  /** The reference that the id stands for; default: `image`. */
  readonly imageReference?: string;
  readonly runtimeHandler: string;
  /** Empty: the endpoint's own. */
  readonly cgroupParent: string;
  /** Folder for container logs; it exists. */
  readonly logDirectory: string;
}

/** Pods of any bench carry this label, so that those of an earlier one that was killed can be found. */
const LABEL: Readonly<Record<string, string>> = Object.freeze({ 'bench.berth.dev/of': 'pods' });

/** Ends at once on SIGTERM, as a well-behaved server does: what is measured is the runtime, not the grace period. */
const COMMAND: readonly string[] = ['sh', '-c', 'trap "exit 0" TERM; echo ready; sleep 1000000 & wait'];
/** How long that may take. */
const READY_MS = 10_000;

const GRACE_S = 10n;

const REMOVED_AT_ONCE = 4;

/** Brings one pod up, executes `true` in it and takes it down again. Throws on any failure; the pod may then be left. */
export async function liveOnePod(cri: Connection, wish: PodWish, signal: AbortSignal): Promise<Sample> {
  const took = new Map<Call, number>();
  const timed = async <T>(call: Call, begin: () => Promise<T>): Promise<T> => {
    signal.throwIfAborted();
    const startedMs = performance.now();
    const answer = await begin();
    took.set(call, performance.now() - startedMs);
    return answer;
  };
  const service = RuntimeServiceService;
  const config = sandboxConfig(wish);
  const container = containerConfig(wish);

  const { podSandboxId } = await timed('RunPodSandbox', () =>
    cri.call(service.runPodSandbox, RunPodSandboxRequest.create({ config, runtimeHandler: wish.runtimeHandler })),
  );
  const { containerId } = await timed('CreateContainer', () =>
    cri.call(
      service.createContainer,
      CreateContainerRequest.create({ podSandboxId, config: container, sandboxConfig: config }),
    ),
  );
  await timed('StartContainer', () => cri.call(service.startContainer, StartContainerRequest.create({ containerId })));
  const { exitCode } = await timed('ExecSync', () =>
    cri.call(service.execSync, ExecSyncRequest.create({ containerId, cmd: ['true'], timeout: 30n })),
  );
  if (exitCode !== 0) throw new Error(`ExecSync true ended with ${exitCode}`);
  await untilReady(join(wish.logDirectory, container.logPath ?? ''), signal);
  await timed('StopContainer', () =>
    cri.call(service.stopContainer, StopContainerRequest.create({ containerId, timeout: GRACE_S })),
  );
  await timed('RemoveContainer', () =>
    cri.call(service.removeContainer, RemoveContainerRequest.create({ containerId })),
  );
  await timed('StopPodSandbox', () => cri.call(service.stopPodSandbox, StopPodSandboxRequest.create({ podSandboxId })));
  await timed('RemovePodSandbox', () =>
    cri.call(service.removePodSandbox, RemovePodSandboxRequest.create({ podSandboxId })),
  );
  return Object.fromEntries(took) as Record<Call, number>;
}

/** A fast runtime would have the shell stopped before it has set its trap, and as the first process it ignores the signal. */
async function untilReady(log: string, signal: AbortSignal): Promise<void> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(READY_MS)]);
  while (!(await readFile(log, 'utf8')).includes('ready')) await setTimeout(1, undefined, { signal: deadline });
}

/** A pod of the bench that is up, and its container. */
export interface StandingPod {
  readonly podSandboxId: string;
  readonly containerId: string;
}

/** Brings one pod up and leaves it so. */
export async function raiseOnePod(cri: Connection, wish: PodWish, signal: AbortSignal): Promise<StandingPod> {
  signal.throwIfAborted();
  const service = RuntimeServiceService;
  const config = sandboxConfig(wish);
  const { podSandboxId } = await cri.call(
    service.runPodSandbox,
    RunPodSandboxRequest.create({ config, runtimeHandler: wish.runtimeHandler }),
  );
  const { containerId } = await cri.call(
    service.createContainer,
    CreateContainerRequest.create({ podSandboxId, config: containerConfig(wish), sandboxConfig: config }),
  );
  await cri.call(service.startContainer, StartContainerRequest.create({ containerId }));
  return { podSandboxId, containerId };
}

/** Stops and removes all pods of benches at this endpoint. Returns how many there were. */
export async function removeBenchPods(cri: Connection): Promise<number> {
  const service = RuntimeServiceService;
  const request = ListPodSandboxRequest.create({ filter: { labelSelector: LABEL } });
  const { items } = await cri.call(service.listPodSandbox, request);
  const left = items.map(({ id }) => id);
  const worker = async (): Promise<void> => {
    for (let podSandboxId = left.pop(); podSandboxId !== undefined; podSandboxId = left.pop()) {
      await cri.call(service.stopPodSandbox, StopPodSandboxRequest.create({ podSandboxId }));
      await cri.call(service.removePodSandbox, RemovePodSandboxRequest.create({ podSandboxId }));
    }
  };
  await Promise.all(Array.from({ length: REMOVED_AT_ONCE }, worker));
  return items.length;
}

function sandboxConfig({ cgroupParent, logDirectory }: PodWish): PodSandboxConfig {
  const uid = randomUUID();
  return PodSandboxConfig.create({
    metadata: { name: `bench-${uid.slice(0, 8)}`, uid, namespace: 'bench', attempt: 0 },
    hostname: `bench-${uid.slice(0, 8)}`,
    logDirectory,
    dnsConfig: { servers: ['192.0.2.53'], searches: ['bench.svc.cluster.local'], options: ['ndots:5'] },
    labels: LABEL,
    linux: {
      cgroupParent,
      securityContext: {
        namespaceOptions: { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD },
        seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
      },
    },
  });
}

/** What the kubelet asks for a best-effort container of a plain pod. */
function containerConfig({
  image,
  imageReference = image,
}: PodWish): Parameters<typeof ContainerConfig.fromPartial>[0] {
  return {
    metadata: { name: 'main', attempt: 0 },
    image: { image, userSpecifiedImage: imageReference },
    command: [...COMMAND],
    envs: [{ key: 'KUBERNETES_SERVICE_HOST', value: Buffer.from('192.0.2.1') }],
    labels: LABEL,
    logPath: `${randomUUID()}.log`,
    linux: {
      resources: { cpuShares: 2n, oomScoreAdj: 1000n },
      securityContext: {
        namespaceOptions: { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD },
        seccomp: { profileType: SecurityProfile_ProfileType.Unconfined },
      },
    },
  };
}
