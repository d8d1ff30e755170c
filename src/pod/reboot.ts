import { rmSync } from 'node:fs';
import { join } from 'node:path';

import { readSpareNetworks } from '../runtime/pod-folders.ts';
import { unpinNamespaces } from '../sys/namespaces.ts';
import { exitAtReboot, isAlive } from './container-exits.ts';
import type { PodDeps } from './pod-deps.ts';
import { sandboxPaths } from './sandbox-files.ts';

/**
 * Brings all records over a restart of the host, or of the container that is a node (kind, minikube), before anything else looks at them. Pids and start times count from
 * the boot: those of the last one would fit strangers, which must be neither adopted nor killed. Sandboxes that were
 * ready are not any more, and have no network; containers have ended; their clients stop and remove them as ever. Where the state folder
 * has survived, what stands in it about processes and namespaces goes.
 */
export function settleReboot(deps: PodDeps): void {
  const { sandboxes, containers, handlers, stateDir, log } = deps;
  for (const id of readSpareNetworks(deps.stateDir)) unpinNamespaces(sandboxPaths(deps, id).namespaces);
  for (const record of sandboxes.all()) {
    unpinNamespaces(sandboxPaths(deps, record.id).namespaces);
    const state = record.state === 'ready' ? 'notReady' : record.state;
    sandboxes.put({ ...record, state, pause: undefined, ips: [], hasLostNetwork: true });
  }
  for (const record of containers.all()) {
    const root = handlers.find(record.handler)?.root ?? join(stateDir, 'runtime', record.handler);
    rmSync(join(root, record.id), { recursive: true, force: true });
    const ended = isAlive(record) ? { state: 'exited' as const, exit: exitAtReboot(deps, record) } : {};
    containers.put({ ...record, ...ended, init: undefined, monitor: undefined });
  }
  const found = { sandboxes: sandboxes.all().length, containers: containers.all().length };
  log.info(found, 'the host was restarted since the last berthd: no process of a pod is left');
}
