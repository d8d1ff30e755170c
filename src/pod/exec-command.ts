import type { ExecCommand } from '../runtime/container-runtime.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord } from './records.ts';

/** The parts of PodDeps that running a command needs. */
export interface ExecCommandDeps extends Pick<PodDeps, 'sandboxes'> {
  readonly cgroups: Pick<PodDeps['cgroups'], 'container' | 'expectMoves'>;
  readonly handlers: Pick<PodDeps['handlers'], 'get'>;
}

/** A command for a container that runs. */
export function execCommand(deps: ExecCommandDeps, record: ContainerRecord, args: readonly string[]): ExecCommand {
  const { id: containerId, init, sandboxId } = record;
  const cgroup = deps.cgroups.container(deps.sandboxes.get(sandboxId).spec.cgroupParent, containerId);
  return {
    containerId,
    handler: deps.handlers.get(record.handler),
    args,
    joinable: init && { init, cgroups: cgroup.entriesFor(init.pid) },
    expectMoves: () => deps.cgroups.expectMoves(),
  };
}
