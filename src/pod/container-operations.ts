import { BerthError } from '../base/errors.ts';
import { atPlace } from '../base/fault-points.ts';
import type { ExecResult } from '../runtime/exec.ts';
import type { ContainerContext } from './create-container.ts';
import { execCommand } from './exec-command.ts';
import type { ContainerRecord } from './records.ts';

/** Where tests disturb a log's change of file; it has no undo, and so it is no pipeline. */
export const REOPEN_PLACES = ['ReopenContainerLog/reopen log'] as const;

/** Runs a command in a running container to its end; `timeoutMs` 0 is no limit. Takes no lock: execs run side by side. */
export async function execSync(
  { deps, id }: ContainerContext,
  command: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ExecResult> {
  const record = getInState({ deps, id }, 'running');
  return await deps.runtime.execSync(execCommand(deps, record, command), timeoutMs, signal);
}

/** Has a running container write to a new log file, after its client renamed the old one. */
export async function reopenLog({ deps, id }: ContainerContext, signal: AbortSignal): Promise<void> {
  await deps.locks.withKey(id, signal, async () => {
    const record = getInState({ deps, id }, 'running');
    if (record.logFile === '') throw new BerthError('precondition', `container ${id} has no log`);
    if (!record.monitor) throw new BerthError('internal', `container ${id} has no monitor`);
    const { logFile, monitor } = record;
    const reopen = (): Promise<void> => deps.runtime.reopenLog(id, logFile, monitor.pid, signal);
    await atPlace(deps.faults, REOPEN_PLACES[0], reopen, signal);
  });
}

/** The container's record. Throws `precondition` when it is in none of these states. */
export function getInState(
  { deps, id }: ContainerContext,
  ...states: readonly ContainerRecord['state'][]
): ContainerRecord {
  const record = deps.containers.get(id);
  if (states.includes(record.state)) return record;
  throw new BerthError('precondition', `container ${id} is ${record.state}, not ${states.join(' or ')}`);
}
