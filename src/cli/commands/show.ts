import { status } from '@grpc/grpc-js';

import { AdminService, PodStepsRequest } from '../../../proto/gen/berth/admin.ts';
import {
  type Container,
  ContainerState,
  ContainerStatusRequest,
  ImageServiceService,
  ListImagesRequest,
  PodSandboxState,
  PodSandboxStatusRequest,
  RuntimeServiceService,
  StatusRequest,
  VersionRequest,
} from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import { age, bytes, json, shortId } from '../output.ts';
import { findContainer, findSandbox, listContainers, listSandboxes, print, type Session } from '../session.ts';

/** `berth version`. */
export async function showVersion(session: Session, ownVersion: string): Promise<void> {
  const server = await session.connection.call(RuntimeServiceService.version, VersionRequest.create());
  print(
    session,
    { client: ownVersion, server },
    ['WHAT', 'VERSION'],
    [
      ['berth', ownVersion],
      [`${server.runtimeName}d`, server.runtimeVersion],
      ['CRI', server.runtimeApiVersion],
    ],
  );
}

/** `berth status`: exit code 1 when pods cannot run. */
export async function showStatus(session: Session): Promise<number> {
  const answer = await session.connection.call(RuntimeServiceService.status, StatusRequest.create({ verbose: true }));
  const conditions = answer.status?.conditions ?? [];
  if (session.json) {
    session.output.out(json({ ...answer, info: parseInfo(answer.info['info']) }));
  } else {
    const rows = conditions.map(({ type, status, reason, message }) => [
      type,
      status ? 'yes' : 'no',
      [reason, message].filter(Boolean).join(': '),
    ]);
    const fallback = (parseInfo(answer.info['info']) as { defaultHandler?: string }).defaultHandler;
    const handlers = answer.runtimeHandlers
      .flatMap(({ name }) => (name === '' ? [] : [name === fallback ? `${name} (default)` : name]))
      .join(', ');
    print(session, answer, ['CONDITION', 'MET', 'WHY NOT'], rows);
    session.output.out(`\nruntime handlers: ${handlers}\n`);
  }
  return conditions.every(({ status }) => status) ? 0 : 1;
}

function parseInfo(text = '{}'): unknown {
  return JSON.parse(text);
}

/** `berth pods`; with `check` also what the network plugins say, and exit code 1 when they find something wrong. */
export async function showPods(session: Session, { check }: { check: boolean }): Promise<number> {
  const sandboxes = await listSandboxes(session);
  const rows = await Promise.all(
    sandboxes.map(async (sandbox) => {
      const request = PodSandboxStatusRequest.create({ podSandboxId: sandbox.id });
      const answer = await session.connection
        .call(RuntimeServiceService.podSandboxStatus, request)
        .catch(() => undefined);
      const isReady = sandbox.state === PodSandboxState.SANDBOX_READY;
      const network = check ? { network: await networkOf(session, sandbox.id) } : {};
      return { ...sandbox, state: isReady ? 'ready' : 'not ready', ip: answer?.status?.network?.ip ?? '', ...network };
    }),
  );
  print(
    session,
    rows,
    ['POD', 'NAMESPACE', 'NAME', 'STATE', 'IP', 'AGE', ...(check ? ['NETWORK'] : [])],
    rows.map(({ id, metadata, state, ip, createdAt, network }) => [
      shortId(id),
      metadata?.namespace ?? '',
      metadata?.name ?? '',
      state,
      ip || '-',
      age(createdAt),
      ...(network === undefined ? [] : [network]),
    ]),
  );
  return rows.every(({ network = '-' }) => network === 'ok' || network === '-') ? 0 : 1;
}

/** `ok`, what is wrong, or `-` for a pod without a network of its own. */
async function networkOf({ connection }: Session, podSandboxId: string): Promise<string> {
  try {
    const { checked, problem } = await connection.call(AdminService.checkPodNetwork, { podSandboxId });
    return checked ? problem || 'ok' : '-';
  } catch (err) {
    // It may have been removed in between; what else there is to say is said for this pod alone.
    if (err instanceof CliError) return err.code === status.NOT_FOUND ? '-' : err.message;
    throw err;
  }
}

const STATES: Readonly<Record<number, string>> = Object.freeze({
  [ContainerState.CONTAINER_CREATED]: 'created',
  [ContainerState.CONTAINER_RUNNING]: 'running',
  [ContainerState.CONTAINER_EXITED]: 'exited',
  [ContainerState.CONTAINER_UNKNOWN]: 'unknown',
});

/** `berth ps`: running containers, or all. */
export async function showContainers(session: Session, { all }: { all: boolean }): Promise<void> {
  const containers = (await listContainers(session)).filter(
    ({ state }) => all || state === ContainerState.CONTAINER_RUNNING,
  );
  const rows = await Promise.all(
    containers.map(async (container) => ({ ...container, ...(await endOf(session, container)) })),
  );
  print(
    session,
    rows.map((row) => ({ ...row, state: STATES[row.state] ?? 'unknown' })),
    ['CONTAINER', 'NAME', 'STATE', 'IMAGE', 'POD', 'AGE'],
    rows.map(({ id, metadata, state, image, podSandboxId, createdAt, exitCode, reason }) => [
      shortId(id),
      metadata?.name ?? '',
      exitCode === undefined ? (STATES[state] ?? 'unknown') : `exited (${exitCode}, ${reason})`,
      shortenImage(image?.userSpecifiedImage || image?.image || ''),
      shortId(podSandboxId),
      age(createdAt),
    ]),
  );
}

/** How a container ended; nothing for one that did not. */
async function endOf(
  { connection }: Session,
  { id, state }: Container,
): Promise<{ readonly exitCode?: number; readonly reason?: string }> {
  if (state !== ContainerState.CONTAINER_EXITED) return {};
  const request = ContainerStatusRequest.create({ containerId: id });
  // It may have been removed in between.
  const answer = await connection.call(RuntimeServiceService.containerStatus, request).catch(() => undefined);
  return answer?.status ? { exitCode: answer.status.exitCode, reason: answer.status.reason } : {};
}

function shortenImage(name: string): string {
  return /^sha256:/.test(name) ? shortId(name) : name;
}

/** `berth images`. */
export async function showImages(session: Session): Promise<void> {
  const { images } = await session.connection.call(ImageServiceService.listImages, ListImagesRequest.create());
  print(
    session,
    images,
    ['IMAGE', 'NAME', 'SIZE'],
    images.flatMap(({ id, repoTags, repoDigests, size }) => {
      const names = [repoTags, repoDigests, ['-']].find((list) => list.length > 0) ?? [];
      return names.map((name) => [shortId(id), name, bytes(Number(size))]);
    }),
  );
}

/** `berth steps`: where the time of a pod and its containers went, or that of a container. */
export async function showSteps(session: Session, text: string): Promise<void> {
  const sandbox = await findSandbox(session, text);
  const found = sandbox ?? (await findContainer(session, text));
  if (!found) {
    throw new CliError(
      `no pod or container is called ${text}, and no id begins so`,
      'berth pods and berth ps --all show what is there',
    );
  }
  const containers = sandbox ? (await listContainers(session)).filter((own) => own.podSandboxId === sandbox.id) : [];
  const answers = await Promise.all(
    [found, ...containers.toReversed()].map(async ({ id, metadata }) => {
      const answer = await session.connection.call(AdminService.podSteps, PodStepsRequest.create({ id }));
      return answer.steps.map((step) => ({ id, of: metadata?.name ?? '', ...step }));
    }),
  );
  const steps = answers.flat();
  if (steps.length === 0) throw new CliError(`no steps are kept for ${text}`);
  print(
    session,
    steps,
    ['OF', 'PIPELINE', 'STEP', 'OUTCOME', 'MS'],
    steps.map(({ of, pipeline, name, outcome, durationMs }) => [of, pipeline, name, outcome, durationMs.toFixed(1)]),
  );
}
