import { withDeadline } from '../base/deadline.ts';
import { wrap } from '../base/errors.ts';
import { runSteps, type Step } from '../base/steps.ts';
import { removeWorkFolder } from './checkpoint-archive.ts';
import { removeContainer } from './remove-container.ts';
import { forgetSandbox, removeSandboxCgroup, type SandboxContext } from './run-sandbox.ts';
import { removeSandboxFolders, sandboxPaths } from './sandbox-files.ts';

const REMOVE_TIMEOUT_MS = 90_000;

/** The name under which the pipeline is journalled: reconcile goes on with one that a crash cut short. */
export const REMOVE_SANDBOX = 'RemovePodSandbox';

/** Removes a stopped sandbox with all containers in it, and frees its name. One that is gone already is fine. */
export async function removeSandbox(ctx: SandboxContext, shutdown: AbortSignal): Promise<void> {
  const { deps } = ctx;
  using signal = withDeadline(`remove sandbox ${ctx.id}`, REMOVE_TIMEOUT_MS, shutdown);
  await deps.locks.withKey(ctx.id, signal, async () => {
    if (!deps.sandboxes.find(ctx.id)) return;
    try {
      await runSteps(removeSandboxSteps, ctx, signal, deps.journals.open(REMOVE_SANDBOX, ctx.id));
    } catch (err) {
      throw wrap(`remove sandbox ${ctx.id}`, err);
    }
    forgetSandbox(ctx);
  });
}

const removeContainers: Step<SandboxContext> = {
  name: 'remove containers',
  async run({ deps, id }, signal) {
    const own = deps.containers.all().filter((container) => container.sandboxId === id);
    await Promise.all(own.map((container) => removeContainer({ deps, id: container.id }, signal)));
  },
};

const removeCgroup: Step<SandboxContext> = { name: 'remove cgroup', run: removeSandboxCgroup };

const removeFolders: Step<SandboxContext> = {
  name: 'remove folders',
  async run({ deps, id }) {
    await removeWorkFolder(deps, id);
    await removeSandboxFolders(sandboxPaths(deps, id));
  },
};

/** RemovePodSandbox, in order, for a sandbox that is stopped. */
export const removeSandboxSteps: readonly Step<SandboxContext>[] = [removeContainers, removeCgroup, removeFolders];
