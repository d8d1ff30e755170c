import { withDeadline } from '../base/deadline.ts';
import { wrap } from '../base/errors.ts';
import { runSteps, type Step } from '../base/steps.ts';
import { removeWorkFolder } from './checkpoint-archive.ts';
import { type ContainerContext, endContainer, forgetContainer, removeSnapshot } from './create-container.ts';

const REMOVE_TIMEOUT_MS = 60_000;

/** The name under which the pipeline is journalled: reconcile goes on with one that a crash cut short. */
export const REMOVE_CONTAINER = 'RemoveContainer';

/** Removes a container; one that runs is killed. One that is gone already is fine. Its log stays: it is the client's. */
export async function removeContainer(ctx: ContainerContext, shutdown: AbortSignal): Promise<void> {
  const { deps, id } = ctx;
  using signal = withDeadline(`remove container ${id}`, REMOVE_TIMEOUT_MS, shutdown);
  await deps.locks.withKey(id, signal, async () => {
    if (!deps.containers.find(id)) return;
    try {
      await runSteps(removeContainerSteps, ctx, signal, deps.journals.open(REMOVE_CONTAINER, id));
    } catch (err) {
      throw wrap(`remove container ${id}`, err);
    }
    forgetContainer(ctx);
  });
}

const end: Step<ContainerContext> = { name: 'end in runtime', run: endContainer };

const removeFilesystem: Step<ContainerContext> = {
  name: 'remove snapshot',
  async run(ctx) {
    await removeSnapshot(ctx);
    // A checkpoint whose undo failed too has left the container's memory there.
    await removeWorkFolder(ctx.deps, ctx.id);
  },
};

/** RemoveContainer, in order. The name is free when everything is gone, so a failed removal can be tried again. */
export const removeContainerSteps: readonly Step<ContainerContext>[] = [end, removeFilesystem];
