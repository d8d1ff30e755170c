import { rm } from 'node:fs/promises';

import {
  PodSandboxStatusRequest,
  RemovePodSandboxRequest,
  RuntimeServiceService,
  StopPodSandboxRequest,
} from '../../../proto/gen/cri/api.ts';
import { forEachLimited } from '../../base/limited.ts';
import { CliError } from '../cli-error.ts';
import { json, shortId } from '../output.ts';
import { findSandbox, type Session } from '../session.ts';
import { isOwnLogFolder, LOG_FOLDER_ANNOTATION } from './run-request.ts';

const POD_TIMEOUT_MS = 240_000;

/** As many pods go side by side. */
const PARALLEL = 8;

/**
 * `berth rm POD...`: stops and removes pods, with the logs of those that `berth run` made. One that does not go keeps no
 * other from going.
 */
export async function removePods(session: Session, names: readonly string[]): Promise<void> {
  const removed: string[] = [];
  // All are looked up before the first is removed: a slip of the pen removes nothing.
  const ids: string[] = [];
  for (const name of names) {
    const sandbox = await findSandbox(session, name);
    if (!sandbox) throw unknownPod(name, names.length);
    ids.push(sandbox.id);
  }
  const failures: unknown[] = [];
  await forEachLimited([...new Set(ids)], PARALLEL, async (id) => {
    try {
      await removePod(session, id);
      removed.push(id);
      if (!session.json) session.output.out(`${shortId(id)}\n`);
    } catch (err) {
      failures.push(err);
    }
  });
  if (session.json) session.output.out(json(removed.map((id) => ({ id }))));
  throwAll(failures);
}

function unknownPod(name: string, asked: number): CliError {
  const outcome = asked > 1 ? ': none of the pods was removed' : '';
  return new CliError(`no pod is called ${name}, and no id begins so${outcome}`, 'berth pods shows what is there');
}

function throwAll(failures: readonly unknown[]): void {
  if (failures.length === 0) return;
  const [first] = failures;
  if (failures.length === 1 || !failures.every((err) => err instanceof CliError)) throw first;
  const problems = failures.map(({ message }) => message);
  throw new CliError(`${failures.length} pods are not removed`, 'berth rm can be repeated', { problems });
}

/** Stops and removes one pod, with its logs if `berth run` made it. */
export async function removePod({ connection }: Session, podSandboxId: string): Promise<void> {
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
  if (isOwnLogFolder(logs)) await rm(logs, { recursive: true, force: true });
}
