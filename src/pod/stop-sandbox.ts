import { withDeadline } from '../base/deadline.ts';
import { wrap } from '../base/errors.ts';
import { runSteps, type Step } from '../base/steps.ts';
import { detachNetwork, endPause, type SandboxContext } from './run-sandbox.ts';
import { sandboxPaths, unmountSandboxFiles } from './sandbox-files.ts';
import { type ContainerStops, isUnrestored } from './stop-container.ts';

/** Longer than the one minute that a CNI DEL may take. */
const STOP_TIMEOUT_MS = 90_000;

/** The name under which the pipeline is journalled: reconcile goes on with one that a crash cut short. */
export const STOP_SANDBOX = 'StopPodSandbox';

/** What the steps of a stop work with. */
export interface StopContext extends SandboxContext {
  /** The stops of single containers that are under way. */
  readonly stops: ContainerStops;
}

/**
 * Stops a sandbox: kills what still runs in it, gives its addresses back and ends its namespaces. A sandbox that is
 * stopped already is fine. Each step may be repeated, so that a failed stop can be tried again.
 */
export async function stopSandbox(ctx: StopContext, shutdown: AbortSignal): Promise<void> {
  const { deps } = ctx;
  using signal = withDeadline(`stop sandbox ${ctx.id}`, STOP_TIMEOUT_MS, shutdown);
  await deps.locks.withKey(ctx.id, signal, async () => {
    const record = deps.sandboxes.find(ctx.id);
    if (!record || record.state === 'stopped') return;
    try {
      await runSteps(stopSandboxSteps, ctx, signal, deps.journals.open(STOP_SANDBOX, ctx.id));
    } catch (err) {
      throw wrap(`stop sandbox ${ctx.id}`, err);
    }
    deps.journals.finish(STOP_SANDBOX, ctx.id);
  });
}

// From here on no container is created or started in it, and nobody takes it for one that works, whatever fails below.
const markNotReady: Step<StopContext> = {
  name: 'mark not ready',
  run({ deps, id }) {
    const record = deps.sandboxes.get(id);
    if (record.state === 'ready') deps.sandboxes.put({ ...record, state: 'notReady' });
  },
};

const killContainers: Step<StopContext> = {
  name: 'kill containers',
  async run({ deps, id, stops }, signal) {
    const own = deps.containers.all().filter((container) => container.sandboxId === id);
    // The kubelet has stopped them with their grace period before; the CRI wants what is left ended by force.
    await Promise.all(
      own.map(async (container) => {
        // A creation or restore that is under way ends by itself, and what it has made by then is killed below.
        if (container.state === 'creating' || isUnrestored(container))
          await deps.locks.withKey(container.id, signal, async () => {});
        await stops.stop(container.id, 0, signal);
      }),
    );
  },
};

const giveNetworkBack: Step<StopContext> = { name: 'detach network', run: detachNetwork };

const endNamespaces: Step<StopContext> = {
  name: 'end pause and namespaces',
  async run(ctx) {
    // Each connection would keep the network namespace alive.
    ctx.deps.runtime.endForwards(ctx.id);
    await endPause(ctx);
  },
};

const unmountFiles: Step<StopContext> = {
  name: 'unmount files',
  run: ({ deps, id }) => unmountSandboxFiles(sandboxPaths(deps, id)),
};

const markStopped: Step<StopContext> = {
  name: 'mark stopped',
  run: ({ deps, id }) => deps.sandboxes.put({ ...deps.sandboxes.get(id), state: 'stopped', pause: undefined }),
};

/** StopPodSandbox, in order. None has an undo: what was stopped stays stopped, and the rest is tried again. */
export const stopSandboxSteps: readonly Step<StopContext>[] = [
  markNotReady,
  killContainers,
  giveNetworkBack,
  endNamespaces,
  unmountFiles,
  markStopped,
];
