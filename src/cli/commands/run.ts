import { randomBytes, randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

import {
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  ImageServiceService,
  ImageStatusRequest,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxStatusRequest,
  Protocol,
  PullImageRequest,
  RemovePodSandboxRequest,
  RunPodSandboxRequest,
  RuntimeServiceService,
  StopPodSandboxRequest,
} from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import { noSuchCommand } from '../no-such-command.ts';
import { json, shortId } from '../output.ts';
import { findSandbox, type Session } from '../session.ts';
import { followLog } from './logs.ts';

const POD_TIMEOUT_MS = 240_000;
const PULL_TIMEOUT_MS = 3_600_000;
/** The log folder of a pod that `berth run` made, so that `berth rm` can remove it too. */
const LOG_FOLDER_ANNOTATION = 'berth.cli/log-directory';
const WAIT_INTERVAL_MS = 100;

/** What `berth run` was asked for. */
export interface RunOptions {
  readonly name?: string;
  /** `HOST:CONTAINER` or `HOST:CONTAINER/udp`. */
  readonly publish?: readonly string[];
  /** `NAME=value`. */
  readonly env?: readonly string[];
  /** `HOST:CONTAINER` or `HOST:CONTAINER:ro`. */
  readonly volume?: readonly string[];
  /** A runtime handler other than the default. */
  readonly runtime?: string;
  readonly hostNetwork?: boolean;
  /** Show the output until the program ends, and end with its exit code. */
  readonly wait?: boolean;
  /** Remove the pod when the program has ended; implies wait. */
  readonly rm?: boolean;
}

/** `berth run IMAGE [-- ARGS]`: a pod with one container. Returns the exit code for the shell. */
export async function run(
  session: Session,
  image: string,
  args: readonly string[],
  options: RunOptions,
): Promise<number> {
  const { connection, output } = session;
  await ensureImage(session, image);
  const config = podConfig(image, options);
  const { podSandboxId } = await connection.call(
    RuntimeServiceService.runPodSandbox,
    RunPodSandboxRequest.create({ config, runtimeHandler: options.runtime ?? '' }),
    POD_TIMEOUT_MS,
  );
  try {
    const containerId = await startContainer(session, podSandboxId, config, image, args, options);
    if (options.wait || options.rm) {
      const exitCode = await waitForEnd(session, containerId);
      if (options.rm) await removePod(session, podSandboxId);
      if (session.json) output.out(`${JSON.stringify({ pod: podSandboxId, container: containerId, exitCode })}\n`);
      return exitCode;
    }
    const { status } = await connection.call(
      RuntimeServiceService.podSandboxStatus,
      PodSandboxStatusRequest.create({ podSandboxId }),
    );
    const ip = status?.network?.ip ?? '';
    const name = config.metadata?.name ?? '';
    output.out(
      session.json
        ? json({ pod: podSandboxId, container: containerId, name, ip })
        : `pod ${shortId(podSandboxId)} (${name}) runs${ip === '' ? '' : ` at ${ip}`}; container ${shortId(containerId)}\n`,
    );
    return 0;
  } catch (err) {
    await removePod(session, podSandboxId).catch((cleanup: unknown) => {
      throw new CliError(`${message(err)}; and pod ${shortId(podSandboxId)} is left: ${message(cleanup)}`);
    });
    throw noSuchCommand(err, 'config.command');
  }
}

function message(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}

async function ensureImage({ connection, output, json: wantsJson }: Session, image: string): Promise<void> {
  const known = await connection.call(ImageServiceService.imageStatus, ImageStatusRequest.create({ image: { image } }));
  if (known.image) return;
  if (!wantsJson) output.err(`image ${image} is not here; pulling it\n`);
  await connection.call(ImageServiceService.pullImage, PullImageRequest.create({ image: { image } }), PULL_TIMEOUT_MS);
}

async function startContainer(
  { connection }: Session,
  podSandboxId: string,
  sandboxConfig: PodSandboxConfig,
  image: string,
  args: readonly string[],
  options: RunOptions,
): Promise<string> {
  const request = CreateContainerRequest.create({
    podSandboxId,
    sandboxConfig,
    config: {
      metadata: { name: sandboxConfig.metadata?.name ?? '', attempt: 0 },
      image: { image, userSpecifiedImage: image },
      args: [...args],
      envs: (options.env ?? []).map(parseEnv),
      mounts: (options.volume ?? []).map(parseVolume),
      logPath: '0.log',
      // What the kubelet writes, and crictl and log collectors read.
      labels: { ...sandboxConfig.labels, 'io.kubernetes.container.name': sandboxConfig.metadata?.name ?? '' },
    },
  });
  const { containerId } = await connection.call(RuntimeServiceService.createContainer, request, POD_TIMEOUT_MS);
  await connection.call(RuntimeServiceService.startContainer, { containerId }, POD_TIMEOUT_MS);
  return containerId;
}

function podConfig(image: string, options: RunOptions): PodSandboxConfig {
  const stem =
    image
      .split('/')
      .at(-1)
      ?.split(/[:@]/, 1)[0]
      ?.replaceAll(/[^a-z0-9-]/g, '-') || 'pod';
  const name = options.name ?? `${stem}-${randomBytes(3).toString('hex')}`;
  const logDirectory = `/var/log/berth/${name}-${randomBytes(4).toString('hex')}`;
  const uid = randomUUID();
  return PodSandboxConfig.create({
    metadata: { name, namespace: 'default', uid, attempt: 0 },
    labels: { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'default', 'io.kubernetes.pod.uid': uid },
    hostname: options.hostNetwork ? '' : name.slice(0, 63),
    logDirectory,
    annotations: { [LOG_FOLDER_ANNOTATION]: logDirectory },
    portMappings: (options.publish ?? []).map(parsePort),
    linux: {
      securityContext: {
        namespaceOptions: {
          network: options.hostNetwork ? NamespaceMode.NODE : NamespaceMode.POD,
          pid: NamespaceMode.CONTAINER,
        },
      },
    },
  });
}

function parsePort(text: string): { protocol: Protocol; containerPort: number; hostPort: number; hostIp: string } {
  const [, host, container, kind = 'tcp'] = /^(\d{1,5}):(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  if (host === undefined || container === undefined)
    throw new CliError(`${text} is not HOST:CONTAINER, such as 8080:80 or 53:53/udp`);
  const protocol = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP }[kind] ?? Protocol.TCP;
  return { protocol, containerPort: Number(container), hostPort: Number(host), hostIp: '' };
}

function parseEnv(text: string): { key: string; value: Buffer } {
  const at = text.indexOf('=');
  if (at <= 0) throw new CliError(`${text} is not NAME=value`);
  return { key: text.slice(0, at), value: Buffer.from(text.slice(at + 1)) };
}

function parseVolume(text: string): { hostPath: string; containerPath: string; readonly: boolean } {
  const [hostPath = '', containerPath = '', mode = 'rw', ...rest] = text.split(':');
  if (!hostPath.startsWith('/') || !containerPath.startsWith('/') || !['ro', 'rw'].includes(mode) || rest.length > 0) {
    throw new CliError(`${text} is not /HOST:/CONTAINER or /HOST:/CONTAINER:ro`);
  }
  return { hostPath, containerPath, readonly: mode === 'ro' };
}

async function waitForEnd(session: Session, containerId: string): Promise<number> {
  const status = (): Promise<ContainerStatus> => readStatus(session, containerId);
  const ended = async (): Promise<boolean> => (await status()).state === ContainerState.CONTAINER_EXITED;
  const { logPath } = await status();
  if (logPath === '') while (!(await ended())) await delay(WAIT_INTERVAL_MS);
  else await followLog(session.output, logPath, { timestamps: false, json: session.json, ended });
  return (await status()).exitCode;
}

async function readStatus({ connection }: Session, containerId: string): Promise<ContainerStatus> {
  const { status } = await connection.call(
    RuntimeServiceService.containerStatus,
    ContainerStatusRequest.create({ containerId }),
  );
  if (!status) throw new CliError(`berthd says nothing about container ${shortId(containerId)}`);
  return status;
}

/** `berth rm POD...`: stops and removes pods, with the logs of those that `berth run` made. */
export async function removePods(session: Session, names: readonly string[]): Promise<void> {
  const removed: string[] = [];
  try {
    for (const name of names) {
      const sandbox = await findSandbox(session, name);
      if (!sandbox)
        throw new CliError(`no pod is called ${name}, and no id begins so`, 'berth pods shows what is there');
      await removePod(session, sandbox.id);
      removed.push(sandbox.id);
      if (!session.json) session.output.out(`${shortId(sandbox.id)}\n`);
    }
  } finally {
    if (session.json) session.output.out(json(removed.map((id) => ({ id }))));
  }
}

async function removePod({ connection }: Session, podSandboxId: string): Promise<void> {
  const { status } = await connection.call(
    RuntimeServiceService.podSandboxStatus,
    PodSandboxStatusRequest.create({ podSandboxId }),
  );
  await connection.call(
    RuntimeServiceService.stopPodSandbox,
    StopPodSandboxRequest.create({ podSandboxId }),
    POD_TIMEOUT_MS,
  );
  await connection.call(
    RuntimeServiceService.removePodSandbox,
    RemovePodSandboxRequest.create({ podSandboxId }),
    POD_TIMEOUT_MS,
  );
  const logs = status?.annotations[LOG_FOLDER_ANNOTATION] ?? '';
  // Annotations can come from anybody who may make pods; only what `berth run` names is removed.
  if (/^\/var\/log\/berth\/[a-z0-9-]+-[0-9a-f]{8}$/.test(logs)) await rm(logs, { recursive: true, force: true });
}
