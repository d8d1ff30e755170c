import { setTimeout as delay } from 'node:timers/promises';

import {
  type ContainerConfig,
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  ImageServiceService,
  ImageStatusRequest,
  type PodSandboxConfig,
  PodSandboxStatusRequest,
  PullImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService,
} from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import { noSuchCommand } from '../no-such-command.ts';
import { json, shortId } from '../output.ts';
import type { Session } from '../session.ts';
import { followLog } from './logs.ts';
import { removePod } from './rm.ts';
import { containerConfig, podConfig, type RunOptions } from './run-request.ts';

const POD_TIMEOUT_MS = 240_000;
const PULL_TIMEOUT_MS = 3_600_000;
const WAIT_INTERVAL_MS = 100;
/** Shells' exit code for what SIGINT has ended. */
const INTERRUPTED = 130;

/** A pod of `berth run`, and the container in it. */
interface RunningPod {
  readonly podSandboxId: string;
  readonly containerId: string;
  readonly name: string;
}

/**
 * `berth run IMAGE [-- ARGS]`: a pod with one container. Returns the exit code for the shell. Who is interrupted while
 * it comes up, or while it runs with --rm, leaves no pod behind.
 */
export async function run(
  session: Session,
  image: string,
  args: readonly string[],
  options: RunOptions,
): Promise<number> {
  // What is wrong with the arguments shows before anything is made.
  const sandboxConfig = podConfig(image, options);
  const config = containerConfig(sandboxConfig, image, args, options);
  using interrupted = session.watchInterrupts();
  await ensureImage(session, image);
  if (interrupted.aborted) throw interruption();
  const { podSandboxId } = await session.connection.call(
    RuntimeServiceService.runPodSandbox,
    RunPodSandboxRequest.create({ config: sandboxConfig, runtimeHandler: options.runtime ?? '' }),
    POD_TIMEOUT_MS,
  );
  const containerId = await orRemove(session, podSandboxId, () =>
    startContainer(session, { podSandboxId, sandboxConfig, config }, interrupted),
  );
  const pod = { podSandboxId, containerId, name: sandboxConfig.metadata?.name ?? '' };
  if (options.rm) {
    const exitCode = await orRemove(session, podSandboxId, () => waitForEnd(session, pod, interrupted, false));
    await removePod(session, podSandboxId);
    return tellEnd(session, pod, exitCode);
  }
  if (options.wait) return tellEnd(session, pod, await waitForEnd(session, pod, interrupted, true));
  await tellStart(session, pod);
  return 0;
}

async function ensureImage({ connection, output, json: wantsJson }: Session, image: string): Promise<void> {
  const known = await connection.call(ImageServiceService.imageStatus, ImageStatusRequest.create({ image: { image } }));
  if (known.image) return;
  if (!wantsJson) output.err(`image ${image} is not here; pulling it\n`);
  await connection.call(ImageServiceService.pullImage, PullImageRequest.create({ image: { image } }), PULL_TIMEOUT_MS);
}

/** Removes the pod when `work` fails. */
async function orRemove<T>(session: Session, podSandboxId: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
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

function interruption(hint?: string): CliError {
  return new CliError('interrupted', hint, { exitCode: INTERRUPTED });
}

async function startContainer(
  { connection }: Session,
  request: { podSandboxId: string; sandboxConfig: PodSandboxConfig; config: ContainerConfig },
  interrupted: AbortSignal,
): Promise<string> {
  if (interrupted.aborted) throw interruption();
  const { containerId } = await connection.call(
    RuntimeServiceService.createContainer,
    CreateContainerRequest.create(request),
    POD_TIMEOUT_MS,
  );
  if (interrupted.aborted) throw interruption();
  await connection.call(RuntimeServiceService.startContainer, { containerId }, POD_TIMEOUT_MS);
  return containerId;
}

/** Shows the output until the program ends; returns its exit code. */
async function waitForEnd(
  session: Session,
  { containerId, name }: RunningPod,
  stop: AbortSignal,
  stays: boolean,
): Promise<number> {
  const status = (): Promise<ContainerStatus> => readStatus(session, containerId);
  const ended = async (): Promise<boolean> => {
    if (stop.aborted) throw interruption(stays ? `pod ${name} goes on; berth rm ${name} ends it` : undefined);
    return (await status()).state === ContainerState.CONTAINER_EXITED;
  };
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

function tellEnd({ output, json: wantsJson }: Session, pod: RunningPod, exitCode: number): number {
  const { podSandboxId, containerId } = pod;
  if (wantsJson) output.out(`${JSON.stringify({ pod: podSandboxId, container: containerId, exitCode })}\n`);
  return exitCode;
}

async function tellStart({ connection, output, json: wantsJson }: Session, pod: RunningPod): Promise<void> {
  const { podSandboxId, containerId, name } = pod;
  const request = PodSandboxStatusRequest.create({ podSandboxId });
  const { status } = await connection.call(RuntimeServiceService.podSandboxStatus, request);
  const ip = status?.network?.ip ?? '';
  const at = ip === '' ? '' : ` at ${ip}`;
  output.out(
    wantsJson
      ? json({ pod: podSandboxId, container: containerId, name, ip })
      : `pod ${shortId(podSandboxId)} (${name}) runs${at}; container ${shortId(containerId)}\n`,
  );
}
