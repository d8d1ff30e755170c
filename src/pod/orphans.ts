import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { withDeadline } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import { forEachLimited } from '../base/limited.ts';
import type { FoundCgroup } from '../runtime/cgroups/cgroups.ts';
import { readFolder, readPodFolders } from '../runtime/pod-folders.ts';
import { unpinNamespacesAside } from '../sys/namespaces.ts';
import { workFolder } from './checkpoint-archive.ts';
import { endProcess, endUnknownMonitors, volumesFolder } from './create-container.ts';
import { findPause } from './find-pause.ts';
import { unmountVolumes } from './mapped-volumes.ts';
import type { PodDeps } from './pod-deps.ts';
import { removeSandboxFolders, sandboxPaths, unmountSandboxFiles } from './sandbox-files.ts';

const PARALLEL = 8;
const END_TIMEOUT_MS = 30_000;
const ID = /^[0-9a-f]{64}$/;
/** What buildSpec() writes down of a container's sandbox. */
const SANDBOX_ANNOTATION = 'io.kubernetes.cri.sandbox-id';

/** Sandboxes and containers that have something in Berth's folders, and no record. */
export interface Orphans {
  readonly sandboxes: readonly string[];
  readonly containers: readonly string[];
}

/** One item that could not be settled, and why. */
type Complain = (what: string, err: unknown) => void;

/**
 * What Berth's folders have that the database does not know: an earlier daemon died before it had removed the last of
 * it, or the database is another one than the pods were made with, because it was lost. Of what another berthd has
 * nothing is here.
 */
export function findOrphans(deps: PodDeps): Orphans {
  const { stateDir, sandboxDir, sandboxes, containers, snapshots, spareNetworks } = deps;
  const spares = new Set<string>(spareNetworks.ids());
  const found = readPodFolders({ stateDir, sandboxDir, snapshotDir: snapshots.folder });
  return {
    sandboxes: found.sandboxes.filter((id) => sandboxes.find(id) === undefined && !spares.has(id)),
    containers: found.containers.filter((id) => containers.find(id) === undefined),
  };
}

/**
 * Ends orphans, containers before their sandboxes, and removes what is left of them; each by itself, so that one that
 * cannot be ended stops no other. Such a one keeps its files, and its sandbox its address: another pod must not get it
 * while a program of the old one still runs. Returns the sandboxes of which something still runs.
 */
export async function endOrphans(
  deps: PodDeps,
  { sandboxes, containers }: Orphans,
  complain: Complain,
  signal: AbortSignal,
): Promise<string[]> {
  if (sandboxes.length + containers.length === 0) return [];
  const { log, notices } = deps;
  log.warn({ sandboxes, containers }, 'the database does not know these sandboxes and containers: they are ended');
  const what = `${sandboxes.length} pod sandboxes and ${containers.length} containers`;
  notices?.tell({
    reason: 'ContainerLost',
    message: `${what} were found that the database does not know: they are ended (${[...sandboxes, ...containers].join(' ')})`,
  });
  const attempt = async (kind: string, id: string, work: () => Promise<void>): Promise<boolean> => {
    try {
      await work();
      return true;
    } catch (err) {
      complain(`${kind} ${id}, which the database does not know`, err);
      return false;
    }
  };
  const busy: { id: string; sandbox: string | undefined }[] = [];
  const silent = new Set<string>();
  await forEachLimited(containers, PARALLEL, async (id) => {
    if (await attempt('container', id, () => endMonitors(deps, id, signal))) silent.add(id);
  });
  // Once for all, because it looks at each cgroup of the host; now no monitor has a runtime make any more.
  const cgroups = deps.cgroups.findCgroups(new Set([...sandboxes, ...containers]));
  await forEachLimited(containers, PARALLEL, async (id) => {
    const sandbox = sandboxOf(deps, id);
    const isGone =
      silent.has(id) && (await attempt('container', id, () => endContainer(deps, id, cgroups.get(id) ?? [], signal)));
    if (isGone) log.info({ container: id }, 'a container that the database does not know is gone');
    else busy.push({ id, sandbox });
  });
  const holding: string[] = [];
  await forEachLimited(sandboxes, PARALLEL, async (id) => {
    const hasEnded = await attempt('sandbox', id, async () => {
      // One whose sandbox nobody can tell may be in any.
      const holder = busy.find(({ sandbox }) => sandbox === id || sandbox === undefined);
      if (holder) throw new BerthError('precondition', `container ${holder.id} of it could not be ended`);
      await endProcesses(deps, id, cgroups.get(id) ?? [], signal);
    });
    if (!hasEnded) holding.push(id);
    else if (await attempt('sandbox', id, () => removeTraces(deps, id, signal)))
      log.info({ sandbox: id }, 'a sandbox that the database does not know is gone');
  });
  return holding;
}

/** Files without an owner that stand for nothing else: what monitors and restores had begun to write. */
export function removeStrayFiles(deps: PodDeps): void {
  const { containers, checkpointDir, stateDir } = deps;
  for (const id of readFolder(checkpointDir))
    if (containers.find(id)?.restoreFrom === undefined) rmSync(workFolder(deps, id), { recursive: true, force: true });
  for (const name of readFolder(join(stateDir, 'exits')))
    if (!ID.test(name) && !containers.find(name.slice(0, 64))) rmSync(join(stateDir, 'exits', name), { force: true });
}

function sandboxOf(deps: PodDeps, id: string): string | undefined {
  try {
    return deps.runtime.bundles.readSpec(id).annotations[SANDBOX_ANNOTATION];
  } catch {
    return undefined;
  }
}

async function endMonitors(deps: PodDeps, id: string, shutdown: AbortSignal): Promise<void> {
  using signal = withDeadline(`end the monitor of container ${id}`, END_TIMEOUT_MS, shutdown);
  await endUnknownMonitors(deps, id, signal);
}

async function endContainer(
  deps: PodDeps,
  id: string,
  cgroups: readonly FoundCgroup[],
  shutdown: AbortSignal,
): Promise<void> {
  const { handlers, runtime, snapshots, stateDir, log } = deps;
  using signal = withDeadline(`end container ${id}`, END_TIMEOUT_MS, shutdown);
  const own = handlers.all().filter(({ root }) => existsSync(join(root, id)));
  // Not every runtime keeps its state under the container's id.
  const asked = own.length === 0 && runtime.bundles.has(id) ? handlers.all() : own;
  for (const handler of asked) {
    await runtime.deleteContainer(handler, id, signal).catch((err: unknown) => {
      // Its cgroup tells whether anything of the container still runs.
      log.warn({ container: id, handler: handler.name, err: describe(err) }, 'a runtime could not delete a container');
    });
  }
  await endCgroups(deps, cgroups, signal);
  for (const name of readFolder(join(stateDir, 'runtime')))
    rmSync(join(stateDir, 'runtime', name, id), { recursive: true, force: true });
  unmountVolumes(volumesFolder({ deps, id }));
  await snapshots.unmount(id);
  await snapshots.remove(id);
  runtime.forget(id);
}

async function endProcesses(
  deps: PodDeps,
  id: string,
  cgroups: readonly FoundCgroup[],
  shutdown: AbortSignal,
): Promise<void> {
  using signal = withDeadline(`end sandbox ${id}`, END_TIMEOUT_MS, shutdown);
  await endProcess(deps, findPause(deps.pausePath, id), signal);
  await endCgroups(deps, cgroups, signal);
}

/** Throws `precondition` naming the processes that survive. */
async function endCgroups(deps: PodDeps, cgroups: readonly FoundCgroup[], signal: AbortSignal): Promise<void> {
  for (const { files, cgroup } of cgroups) {
    files.killAll();
    await deps.cgroups.removeSandbox(cgroup, signal);
  }
}

// The network first, while its namespace is there: the plugins find in it what they have to take back.
async function removeTraces(deps: PodDeps, id: string, signal: AbortSignal): Promise<void> {
  const paths = sandboxPaths(deps, id);
  await deps.cni.forget(id, signal);
  await unpinNamespacesAside(paths.namespaces);
  await unmountSandboxFiles(paths);
  await removeSandboxFolders(paths);
}
