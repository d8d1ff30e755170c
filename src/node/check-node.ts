import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { withDeadline } from '../base/deadline.ts';
import { because, describe } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import type { Config } from '../config/load-config.ts';
import { Processes } from '../proc/processes.ts';
import { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { Cgroups } from '../runtime/cgroups/cgroups.ts';
import { openCgroups } from '../runtime/cgroups/open-cgroups.ts';
import { HandlerTrials } from '../runtime/handler-trials.ts';
import { Handlers } from '../runtime/handlers.ts';
import { HookFolders } from '../runtime/hooks/hook-folders.ts';
import { readHostFacts } from '../runtime/host-facts.ts';
import { commonFindings, readPodNetwork } from './common-findings.ts';
import { configFile } from './container-findings.ts';
import type { Finding } from './finding.ts';
import { overlayFindings } from './folder-findings.ts';
import { networkFindings } from './network-findings.ts';
import { handlerFindings, trialFindings } from './program-findings.ts';

/** Beside the compiled program, in dist/native. */
const PAUSE_PATH = fileURLToPath(new URL('../../native/pause', import.meta.url));
const TIMEOUT_MS = 60_000;

/**
 * Looks over this node as a berthd with this configuration would find it, where none runs. What it makes for that, an
 * overlay mount and a tiny container per runtime, it takes away again. Never throws for what is wrong with the node.
 */
export async function checkNode(config: Config): Promise<Finding[]> {
  using signal = withDeadline('check of this node', TIMEOUT_MS);
  const isRoot = process.geteuid?.() === 0;
  const processes = new Processes({ log: silentLogger, meter: silentMeter });
  // A wait for a process does not keep node alive.
  const keepAlive = setInterval(() => {}, TIMEOUT_MS);
  let cgroups: Cgroups | undefined;
  const look = (subject: string, at: () => Finding[] | Promise<Finding[]>): Promise<Finding[]> =>
    findings(subject, configFile(config.sources), at);
  try {
    const found: Finding[] = isRoot ? [] : [notRoot()];
    found.push(
      ...(await look('runtime.cgroup_manager', () => {
        cgroups = openCgroups(config.runtime.cgroupManager);
        return [];
      })),
    );
    found.push(...kubeconfigFindings(config));
    found.push(...networkFindings(config.cni.confDir, (await readPodNetwork(config)).status));
    if (cgroups) {
      const place = { processes, isRoot, cgroups };
      found.push(...(await look('runtime handlers', () => runtimeFindings(config, place, signal))));
    }
    if (isRoot) found.push(...overlayFindings(config.root));
    const parts = {
      processes,
      cgroups: cgroups ?? { mode: 'v1', driver: 'cgroupfs' },
      host: readHostFacts(silentLogger),
      cdi: new CdiDevices(config.runtime.cdiSpecDirs),
      hooks: new HookFolders(config.runtime.hooksDirs, silentLogger),
    } as const;
    found.push(...(await look('this node', () => commonFindings(config, parts, signal))));
    return found;
  } finally {
    clearInterval(keepAlive);
    await processes.close();
    await cgroups?.close();
  }
}

async function runtimeFindings(
  config: Config,
  place: {
    readonly processes: Processes;
    readonly isRoot: boolean;
    readonly cgroups: Cgroups;
  },
  signal: AbortSignal,
): Promise<Finding[]> {
  const { processes, isRoot, cgroups } = place;
  const host = readHostFacts(silentLogger);
  // Not the state folder: it may not be there yet, and nothing of this check shall stay in it.
  using scratch = new ScratchFolder(tmpdir());
  const parts = {
    ...config.runtime,
    stateDir: scratch.path,
    pausePath: PAUSE_PATH,
    cgroups,
    kernelHasRecursiveReadOnly: host.kernelHasRecursiveReadOnly,
    kernelMapsIds: host.kernelMapsIds,
    processes,
    log: silentLogger,
  };
  const handlers = await Handlers.probe(parts, signal);
  const found = handlerFindings(handlers.statuses(), handlers.defaultName);
  if (!isRoot) return found;
  const trials = await new HandlerTrials(parts).run(handlers.all(), signal);
  return [...found, ...trialFindings(trials, handlers.defaultName)];
}

/** What goes wrong while something is looked for is a finding itself. */
async function findings(subject: string, file: string, look: () => Finding[] | Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await look();
  } catch (err) {
    const message = `${describe(err)}: berthd cannot start with it`;
    return [{ severity: 'error', subject, message, remedy: `correct that, in ${file} or on this node` }];
  }
}

/** A running berthd tells what the API server says; here it is only looked whether there is a file. */
function kubeconfigFindings({ cluster: { kubeconfig } }: Config): Finding[] {
  if (kubeconfig === '' || existsSync(kubeconfig)) return [];
  return [
    {
      severity: 'warning',
      subject: `cluster.kubeconfig ${kubeconfig}`,
      message: 'is not there: berthd waits for it, and pods run without',
      remedy: 'kubeadm join, or init, writes /etc/kubernetes/kubelet.conf; or name another file',
    },
  ];
}

function notRoot(): Finding {
  return {
    severity: 'warning',
    subject: 'this check',
    message: 'is not run by root: what only root can try was left out',
    remedy: 'sudo berth config check',
  };
}

/** A folder that goes with its holder. */
class ScratchFolder implements Disposable {
  readonly path: string;

  /** Throws `precondition` where none can be made. */
  constructor(parent: string) {
    try {
      this.path = mkdtempSync(join(parent, 'berth-check-'));
    } catch (err) {
      throw because('precondition', `no folder can be made in ${parent} to try runtimes in; set TMPDIR`, err);
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
