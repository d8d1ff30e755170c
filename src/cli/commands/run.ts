import { setTimeout as delay } from 'node:timers/promises';

import {
  type ContainerConfig,
  type ContainerEventResponse,
  ContainerEventType,
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  GetEventsRequest,
  ImageServiceService,
  ImageStatusRequest,
  type PodSandboxConfig,
  PodSandboxStatusRequest,
  PullImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService,
  StatusRequest,
} from '../../../proto/gen/cri/api.ts';
import { printable } from '../../base/printable.ts';
import { CliError } from '../cli-error.ts';
import { noSuchCommand } from '../no-such-command.ts';
import { json, shortId } from '../output.ts';
import { listSandboxes, type Session } from '../session.ts';
import { followLog } from './logs.ts';
import { removePod } from './rm.ts';
import { containerConfig, NAMESPACE, podConfig, type RunOptions } from './run-request.ts';

const POD_TIMEOUT_MS = 240_000;
const PULL_TIMEOUT_MS = 3_600_000;
const WAIT_INTERVAL_MS = 100;
/** A program that cannot run at all, for want of a library or a file, has ended by then. */
const EARLY_END_MS = 250;
/** What is shown of the output of a program that has ended at once. */
const LAST_LINES = 5;
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
  if (options.name !== undefined) await refuseTaken(session, options.name);
  using interrupted = session.watchInterrupts();
  await unlessInterrupted(interrupted, () => ensureImage(session, image, interrupted));
  const podSandboxId = await runSandbox(session, sandboxConfig, options, interrupted);
  const stays = !options.rm && !options.wait;
  const pod = await orRemove(session, podSandboxId, () =>
    unlessInterrupted(interrupted, async () => {
      const containerId = await createContainer(session, { podSandboxId, sandboxConfig, config }, interrupted);
      await startContainer(session, containerId, stays ? EARLY_END_MS : 0, interrupted);
      return { podSandboxId, containerId, name: sandboxConfig.metadata?.name ?? '' };
    }),
  );
  if (stays) return await tellStart(session, pod);
  if (!options.rm) return tellEnd(session, pod, await waitForEnd(session, pod, interrupted, true));
  const exitCode = await orRemove(session, podSandboxId, () => waitForEnd(session, pod, interrupted, false));
  await removePod(session, podSandboxId);
  return tellEnd(session, pod, exitCode);
}

/** Two pods of one name can be told apart by their ids only: nobody wants that who gives names. */
async function refuseTaken(session: Session, name: string): Promise<void> {
  const holder = (await listSandboxes(session)).find(
    ({ metadata }) => metadata?.name === name && metadata.namespace === NAMESPACE,
  );
  if (holder) {
    throw new CliError(`pod ${name} is there already: ${shortId(holder.id)}`, `berth rm ${name} removes it`);
  }
}

async function ensureImage(
  { connection, output, json: wantsJson }: Session,
  image: string,
  interrupted: AbortSignal,
): Promise<void> {
  const known = await connection.call(ImageServiceService.imageStatus, ImageStatusRequest.create({ image: { image } }));
  if (known.image || interrupted.aborted) return;
  if (!wantsJson) output.err(`image ${image} is not here; pulling it\n`);
  const request = PullImageRequest.create({ image: { image } });
  await connection.call(ImageServiceService.pullImage, request, PULL_TIMEOUT_MS, interrupted);
}

/** Runs the pod without its container. Who is interrupted meanwhile leaves none behind. */
async function runSandbox(
  session: Session,
  config: PodSandboxConfig,
  { hostNetwork, runtime }: RunOptions,
  interrupted: AbortSignal,
): Promise<string> {
  if (!hostNetwork) await tellOfNetwork(session);
  const request = RunPodSandboxRequest.create({ config, runtimeHandler: runtime ?? '' });
  return await unlessInterrupted(interrupted, async () => {
    try {
      const method = RuntimeServiceService.runPodSandbox;
      return (await session.connection.call(method, request, POD_TIMEOUT_MS, interrupted)).podSandboxId;
    } catch (err) {
      // What was not ready yet berthd undoes; what was ready has lost only its answer.
      if (interrupted.aborted) await removeUnseen(session, config.metadata?.uid ?? '');
      throw err;
    }
  });
}

/** Without a network berthd waits for one, for minutes and in silence. */
async function tellOfNetwork({ connection, output, json: wantsJson }: Session): Promise<void> {
  if (wantsJson) return;
  const answer = await connection.call(RuntimeServiceService.status, StatusRequest.create()).catch(() => undefined);
  const network = answer?.status?.conditions.find(({ type }) => type === 'NetworkReady');
  if (network?.status !== false) return;
  const minutes = POD_TIMEOUT_MS / 60_000;
  const problem = printable(network.message);
  output.err(`waiting up to ${minutes} minutes for a network (--host-network needs none): ${problem}\n`);
}

async function removeUnseen(session: Session, uid: string): Promise<void> {
  const own = (await listSandboxes(session)).filter(({ metadata }) => metadata?.uid === uid);
  for (const { id } of own) await removePod(session, id);
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

async function unlessInterrupted<T>(interrupted: AbortSignal, work: () => Promise<T>): Promise<T> {
  if (interrupted.aborted) throw interruption();
  try {
    return await work();
  } catch (err) {
    throw interrupted.aborted ? interruption() : err;
  }
}

async function createContainer(
  { connection }: Session,
  parts: { podSandboxId: string; sandboxConfig: PodSandboxConfig; config: ContainerConfig },
  interrupted: AbortSignal,
): Promise<string> {
  const method = RuntimeServiceService.createContainer;
  const request = CreateContainerRequest.create(parts);
  return (await connection.call(method, request, POD_TIMEOUT_MS, interrupted)).containerId;
}

/** Starts a container, and waits for its end, but no longer than `waitMs`. */
async function startContainer(
  { connection }: Session,
  containerId: string,
  waitMs: number,
  interrupted: AbortSignal,
): Promise<void> {
  if (interrupted.aborted) throw interruption();
  const enough = new AbortController();
  const signal = AbortSignal.any([enough.signal, interrupted]);
  const isEnd = (event: ContainerEventResponse): boolean =>
    event.containerId === containerId && event.containerEventType === ContainerEventType.CONTAINER_STOPPED_EVENT;
  const events = RuntimeServiceService.getContainerEvents;
  // Asked before the start, so that no end is missed.
  const ended = waitMs > 0 ? connection.readUntil(events, GetEventsRequest.create(), isEnd, signal) : Promise.resolve();
  let timer: NodeJS.Timeout | undefined;
  try {
    await connection.call(RuntimeServiceService.startContainer, { containerId }, POD_TIMEOUT_MS, interrupted);
    timer = setTimeout(() => enough.abort(), waitMs);
    await ended;
  } finally {
    clearTimeout(timer);
    enough.abort();
  }
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

/** Tells where the pod is, and how its program has ended if it has. Returns the exit code for the shell. */
async function tellStart(session: Session, pod: RunningPod): Promise<number> {
  const { connection, output, json: wantsJson } = session;
  const { podSandboxId, containerId, name } = pod;
  const container = await readStatus(session, containerId);
  const request = PodSandboxStatusRequest.create({ podSandboxId });
  const { status } = await connection.call(RuntimeServiceService.podSandboxStatus, request);
  const ip = status?.network?.ip ?? '';
  const known = { pod: podSandboxId, container: containerId, name, ip };
  const at = ip === '' ? '' : ` at ${ip}`;
  const where = `pod ${shortId(podSandboxId)} (${name})`;
  if (container.state !== ContainerState.CONTAINER_EXITED) {
    output.out(wantsJson ? json(known) : `${where} runs${at}; container ${shortId(containerId)}\n`);
    return 0;
  }
  const { exitCode, reason } = container;
  if (wantsJson) output.out(json({ ...known, exitCode, reason }));
  else if (exitCode === 0) output.out(`${where} is there${at}; its program has ended already, with exit code 0\n`);
  if (exitCode === 0) return 0;
  if (!wantsJson) for (const line of await lastLines(container.logPath)) output.err(`  ${printable(line)}\n`);
  throw new CliError(
    `${where}: its program has ended at once, with exit code ${exitCode} (${reason})`,
    `berth logs ${name} shows what it wrote; berth rm ${name} removes the pod`,
    { exitCode },
  );
}

async function lastLines(logPath: string): Promise<string[]> {
  const written: string[] = [];
  const keep = (text: string): void => void written.push(text);
  const how = { timestamps: false, json: false, ended: async () => true };
  await followLog({ out: keep, err: keep }, logPath, how).catch(() => undefined);
  return written.join('').split('\n').filter(Boolean).slice(-LAST_LINES);
}
