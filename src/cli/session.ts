import {
  type Container,
  ContainerState,
  ListContainersRequest,
  ListPodSandboxRequest,
  type PodSandbox,
  RuntimeServiceService,
} from '../../proto/gen/cri/api.ts';
import type { Config } from '../config/load-config.ts';
import type { Finding, ToldFinding } from '../node/finding.ts';
import type { PlannedPull } from '../node/plan-on-node.ts';
import { CliError } from './cli-error.ts';
import { type ByteOutput, json, shortId, table } from './output.ts';

/** One method of a generated service definition. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (request: Request) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

/** Who brings requests to berthd. */
export interface Caller {
  /**
   * Sends a request and returns the answer. Throws CliError with what went wrong and what to do; one with the code
   * CANCELLED when the signal aborts, of which berthd hears.
   */
  call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    timeoutMs?: number,
    signal?: AbortSignal,
  ): Promise<Response>;
  /**
   * Reads a stream of answers to its end, each when the one before is dealt with. Throws what `take` throws, and CliError
   * as `call` does; either ends the stream.
   */
  readAll<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    take: (response: Response) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void>;
  /** Reads a stream of answers until one is `wanted`, the stream ends or fails, or the signal aborts. Never throws. */
  readUntil<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    wanted: (response: Response) => boolean,
    signal: AbortSignal,
  ): Promise<void>;
}

/** What every command works with. */
export interface Session {
  readonly connection: Caller;
  readonly output: ByteOutput;
  /** The wish for JSON instead of a table. */
  readonly json: boolean;
  /** A signal that aborts when the person presses Ctrl-C; until it is disposed of, the program does not end by that. */
  watchInterrupts(): AbortSignal & Disposable;
  /** Looks over this node where no berthd runs. */
  checkNode(config: Config): Promise<readonly Finding[]>;
  /** How an image would be pulled by the files on this node, where no berthd runs. */
  planOnNode(config: Config, image: string, namespace: string): Promise<readonly PlannedPull[]>;
  /** As checkNode(), and over what an earlier berthd has left; with `fix` mends what is safe. */
  examineNode(config: Config, fix: boolean): Promise<readonly ToldFinding[]>;
}

/** Prints an answer: as JSON for programs, as a table for people. */
export function print(
  { output, json: wantsJson }: Session,
  value: unknown,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  output.out(wantsJson ? json(value) : table(headings, rows));
}

/** All sandboxes, newest first. */
export async function listSandboxes({ connection }: Session): Promise<PodSandbox[]> {
  return (await connection.call(RuntimeServiceService.listPodSandbox, ListPodSandboxRequest.create())).items;
}

/** All containers, newest first. */
export async function listContainers({ connection }: Session): Promise<Container[]> {
  return (await connection.call(RuntimeServiceService.listContainers, ListContainersRequest.create())).containers;
}

/** The container that a person means, as findContainer(). Throws CliError when there is none. */
export async function getContainer(session: Session, text: string): Promise<Container> {
  const found = await findContainer(session, text);
  if (found) return found;
  throw new CliError(`no container is called ${text}, and no id begins so`, 'berth ps --all shows what is there');
}

/**
 * The one container that a person means by a name or the beginning of an id: of equal names in one pod the newest, one
 * that runs before one that does not. Throws CliError when several pods have one of that name, or several ids begin so.
 */
export async function findContainer(session: Session, text: string): Promise<Container | undefined> {
  const all = await listContainers(session);
  const byName = all.filter(({ metadata }) => metadata?.name === text);
  const running = byName.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING);
  const candidates = newestOfEachPod(running.length > 0 ? running : byName);
  return single(candidates, text, 'container') ?? pick(all, text, 'container');
}

/**
 * The one pod that a person means by a name, `namespace/name` or the beginning of an id. Throws CliError when several are
 * called so, or several ids begin so.
 */
export async function findSandbox(session: Session, text: string): Promise<PodSandbox | undefined> {
  const all = await listSandboxes(session);
  const byName = all.filter(({ metadata }) =>
    [metadata?.name, `${metadata?.namespace}/${metadata?.name}`].includes(text),
  );
  return single(byName, text, 'pod') ?? pick(all, text, 'pod');
}

/** A container that was made again leaves the earlier ones behind, which nobody means. */
function newestOfEachPod(containers: readonly Container[]): Container[] {
  const newest = new Map<string, Container>();
  for (const container of containers) {
    const known = newest.get(container.podSandboxId);
    if (!known || container.createdAt > known.createdAt) newest.set(container.podSandboxId, container);
  }
  return [...newest.values()];
}

function pick<T extends { id: string }>(all: readonly T[], prefix: string, kind: string): T | undefined {
  const matches = all.filter(({ id }) => id.startsWith(prefix));
  if (matches.length > 1) {
    const ids = matches.map(({ id }) => shortId(id)).join(', ');
    throw new CliError(`${prefix} is the beginning of ${matches.length} ${kind} ids: ${ids}`, 'type more of it');
  }
  return matches[0];
}

function single<T extends { id: string }>(found: readonly T[], name: string, kind: string): T | undefined {
  if (found.length > 1) {
    const ids = found.map(({ id }) => shortId(id)).join(', ');
    throw new CliError(`${found.length} ${kind}s are called ${name}: ${ids}`, 'say which one by its id');
  }
  return found[0];
}
