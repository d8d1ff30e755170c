import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

import { withDeadline } from '../base/deadline.ts';
import type { Processes } from '../proc/processes.ts';
import { killProcess, readProcessStartTime, setSessionNice } from '../sys/process.ts';
import { LET_FINISH_MS } from './plugin-runner.ts';

const END_TIMEOUT_MS = 10_000;

/**
 * Has plugins end that an earlier daemon left at work for these containers: an ADD that goes on after the DEL would
 * make again what that has freed. They get three seconds to finish, then they are killed. Plugins and what they start
 * are known by their environment (CNI 1.1, section 2). Returns how many were killed; throws `deadline` when one does
 * not die.
 */
export async function endOrphanedPlugins(
  containerIds: ReadonlySet<string>,
  processes: Pick<Processes, 'exitOf'>,
): Promise<number> {
  using signal = withDeadline('the end of plugins that an earlier berthd has left', END_TIMEOUT_MS);
  await untilFinished(findPlugins(containerIds), processes);
  let ended = 0;
  // Again and again: what was found may have started something meanwhile.
  for (let orphans = findPlugins(containerIds); orphans.length > 0; orphans = findPlugins(containerIds)) {
    for (const { pid, startTime } of orphans) {
      if (killProcess(pid, startTime, 'SIGKILL')) ended += 1;
    }
    for (const { pid, startTime } of orphans) await processes.exitOf(pid, startTime, signal);
  }
  return ended;
}

async function untilFinished(plugins: readonly Plugin[], processes: Pick<Processes, 'exitOf'>): Promise<void> {
  using patience = withDeadline('plugins that an earlier berthd has left', LET_FINISH_MS);
  await Promise.all(
    plugins.map(async ({ pid, startTime }) => {
      // Its time is short now.
      setSessionNice(pid, 0);
      try {
        await processes.exitOf(pid, startTime, patience);
      } catch (err) {
        if (!patience.aborted) throw err;
      }
    }),
  );
}

interface Plugin {
  readonly pid: number;
  readonly startTime: number;
}

function findPlugins(containerIds: ReadonlySet<string>): Plugin[] {
  const ownNamespace = readlinkSync('/proc/self/ns/pid');
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    const pid = Number(name);
    // Before its environment: this one, and not a later process of that number, shall be killed.
    const startTime = readProcessStartTime(pid);
    const id = containerIdOf(name, ownNamespace);
    return startTime !== undefined && id !== undefined && containerIds.has(id) ? [{ pid, startTime }] : [];
  });
}

function containerIdOf(pid: string, namespace: string): string | undefined {
  try {
    const variables = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
    if (!variables.some((variable) => variable.startsWith('CNI_COMMAND='))) return undefined;
    // A program in a pod may have such variables for reasons of its own.
    if (readlinkSync(`/proc/${pid}/ns/pid`) !== namespace) return undefined;
    return variables.find((variable) => variable.startsWith('CNI_CONTAINERID='))?.slice('CNI_CONTAINERID='.length);
  } catch {
    // It has ended; a zombie has no environment either.
    return undefined;
  }
}
