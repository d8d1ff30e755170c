import { existsSync, rmSync } from 'node:fs';
import { hostname as hostHostname } from 'node:os';
import { join } from 'node:path';

import { withDeadline } from '../base/deadline.ts';
import { BerthError, describe, invalid, isKind } from '../base/errors.ts';
import { newSandboxId, type SandboxId } from '../base/ids.ts';
import type { Step } from '../base/steps.ts';
import type { CniAttachment, CniResult, PodNetwork } from '../cni/cni.ts';
import type { ThreadPlacement } from '../runtime/cgroups/cgroups.ts';
import { checkLimits } from '../runtime/check-limits.ts';
import type { Handler } from '../runtime/handler.ts';
import { relabelFile } from '../runtime/relabel.ts';
import { checkUserNamespace } from '../runtime/user-namespace.ts';
import { newKinds, sysctlKind } from '../sys/namespace-request.ts';
import {
  type NamespaceKind,
  type NamespaceRequest,
  type PauseProcess,
  unpinNamespacesAside,
} from '../sys/namespaces.ts';
import { killProcess } from '../sys/process.ts';
import { type CreationPipeline, makeUnclaimed } from './creation-pipeline.ts';
import type { Unclaimed } from './creations.ts';
import { findPause } from './find-pause.ts';
import { checkHostPorts, warnOfBoundPorts } from './host-ports.ts';
import { POD_INTERFACE, sandboxName } from './names.ts';
import type { PodDeps } from './pod-deps.ts';
import type { SandboxRecord } from './records.ts';
import {
  makeSandboxFolders,
  sandboxPaths,
  unmountSandboxFiles,
  writeHosts,
  writeSandboxFiles,
} from './sandbox-files.ts';
import type { SandboxSpec } from './sandbox-spec.ts';
import { newSelinuxLevel, selinuxLabels } from './selinux-labels.ts';
import { removeSpareNetwork, type TakenNetwork } from './spare-networks.ts';
import { limitsOnHost, podLimits } from './update-resources.ts';

/** The kubelet's own limit for RunPodSandbox: twice its two-minute request timeout. */
export const RUN_TIMEOUT_MS = 240_000;

/** How long a pod waits for an address of a network that was ready for others. */
const GIVE_BACK_TIMEOUT_MS = 10_000;

/** The name under which a sandbox's first pipeline is journalled. */
export const RUN_SANDBOX = 'RunPodSandbox';

/** What each step works with; the record itself is read from the index, so that a restart can build this again. */
export interface SandboxContext {
  readonly deps: PodDeps;
  readonly id: SandboxId;
}

interface RunContext extends SandboxContext {
  /** Begun by one step, and awaited by another. */
  pausing?: Promise<PauseProcess>;
  /** What it has of its network already: it took over one that was ready. */
  readonly network?: CniResult | undefined;
  /** Found out by one step, and recorded by the last. */
  ips?: readonly string[];
}

/**
 * Brings up a pod sandbox, for a client to claim; tells each step that it comes to. See makeUnclaimed() for what becomes
 * of it when it fails.
 */
export async function makeSandbox(
  deps: PodDeps,
  spec: SandboxSpec,
  onStep: (step: string) => void,
  shutdown: AbortSignal,
): Promise<Unclaimed<SandboxRecord>> {
  const handler = deps.handlers.get(spec.runtimeHandler);
  checkSpec(deps, spec, handler);
  using signal = withDeadline(`run sandbox ${sandboxName(spec)}`, RUN_TIMEOUT_MS, shutdown);
  onStep('take network');
  const taken = await takeNetwork(deps, spec, signal);
  try {
    const record = newRecord(deps, spec, handler, taken?.id ?? newSandboxId());
    return await makeUnclaimed(pipeline, record, { deps, id: record.id, network: taken?.result }, onStep, signal);
  } catch (err) {
    // It was refused before its first step.
    if (taken && existsSync(sandboxPaths(deps, taken.id).spareMark)) deps.spareNetworks.discard(taken.id);
    throw err;
  }
}

async function takeNetwork(deps: PodDeps, spec: SandboxSpec, signal: AbortSignal): Promise<TakenNetwork | undefined> {
  if (spec.security.namespaces.network !== 'pod') return undefined;
  const hasSysctls = Object.keys(spec.sysctls).some((name) => sysctlKind(name) === 'net');
  // A namespace belongs to the user namespace that it was made in, and its sysctls hold for interfaces made after them.
  const maySpare = !spec.security.namespaces.user && !hasSysctls;
  return maySpare ? await deps.spareNetworks.take(podNetwork(spec), signal) : undefined;
}

/** Drops the record and the journal of a sandbox that has nothing left on the machine. */
export function forgetSandbox({ deps, id }: SandboxContext): void {
  deps.sandboxes.delete(id);
  deps.journals.forget(id);
}

const makeFolders: Step<RunContext> = {
  name: 'make folders',
  run({ deps, id, network }) {
    const paths = sandboxPaths(deps, id);
    makeSandboxFolders(paths);
    // From here on the journal tells that there is something to undo.
    if (network) rmSync(paths.spareMark, { force: true });
  },
  // It may have got no further with a network that it took over.
  undo: ({ deps, id }) => removeSpareNetwork(deps, id),
};

const makeCgroup: Step<SandboxContext> = {
  name: 'make cgroup',
  async run({ deps, id }, signal) {
    const { spec } = deps.sandboxes.get(id);
    const limits = spec.resources && { resources: limitsOnHost(deps, podLimits(spec)) };
    await deps.cgroups.createSandbox({ parent: spec.cgroupParent, sandboxId: id, ...limits }, signal);
  },
  undo: removeSandboxCgroup,
};

/** Removes the sandbox's cgroup, known to the record or not. Safe to repeat. */
export async function removeSandboxCgroup({ deps, id }: SandboxContext): Promise<void> {
  const { cgroup, spec } = deps.sandboxes.get(id);
  const known = cgroup ?? deps.cgroups.sandboxCgroup(spec.cgroupParent, id);
  using signal = withDeadline(`remove cgroup of sandbox ${id}`, 10_000);
  try {
    await deps.cgroups.removeSandbox(known, signal);
  } catch (err) {
    if (!isKind(err, 'precondition')) throw err;
    // All that belongs there has ended by now: a hook is left of a runtime that was killed, and its pod shall go.
    deps.log.warn({ sandbox: id, err: describe(err) }, 'processes that nobody knows are ended with their sandbox');
    for (const { files } of deps.cgroups.findCgroups(new Set([id])).get(id) ?? []) files.killAll();
    await deps.cgroups.removeSandbox(known, signal);
  }
}

// It is through as soon as a network can be attached; the pause process, and its way into the cgroup, come meanwhile.
const makeNamespaces: Step<RunContext> = {
  name: 'make namespaces and pause',
  async run(ctx, signal) {
    const { deps, id } = ctx;
    const { spec, hostname, cgroup } = deps.sandboxes.get(id);
    const kinds = namespaceKinds(spec);
    const hasNetwork = ctx.network !== undefined;
    const request = {
      pausePath: deps.pausePath,
      pauseArgs: [id],
      kinds,
      hasNetwork,
      userNamespace: spec.security.namespaces.user,
      hostname: kinds.includes('uts') ? hostname : '',
      sysctls: deps.security.defaultSysctls.with(spec.sysctls, {
        kinds: newKinds({ kinds, hasNetwork }),
        hasUserNamespace: spec.security.namespaces.user !== undefined,
      }),
      pinDir: sandboxPaths(deps, id).namespaces,
      ...(cgroup ? placement(deps.cgroups.threadPlacement(cgroup)) : {}),
    };
    const pinned = Promise.withResolvers<void>();
    ctx.pausing = deps.namespaces.make(request, signal, pinned.resolve);
    await Promise.race([pinned.promise, ctx.pausing]);
  },
  async undo(ctx) {
    // One that failed is told by the step that waits for it, and may have left the pins.
    await ctx.pausing?.catch(() => {});
    // While its namespace is there.
    if (ctx.deps.cni.isAttached({ containerId: ctx.id, ifName: POD_INTERFACE })) await detachNetwork(ctx);
    await endPause(ctx);
  },
};

const startPause: Step<RunContext> = {
  name: 'start pause',
  async run({ deps, id, pausing }, signal) {
    const pause = await pausing;
    if (!pause) throw new BerthError('internal', `sandbox ${id} has no pause process`);
    deps.sandboxes.put({ ...deps.sandboxes.get(id), pause });
    const { cgroup } = deps.sandboxes.get(id);
    if (cgroup) await deps.cgroups.addProcess(cgroup, pause.pid, signal);
  },
};

// A pause that is born in its cgroup costs a millisecond; one that is moved there costs twenty.
function placement({ enter, leave, procs }: ThreadPlacement): Pick<NamespaceRequest, 'cgroupThread' | 'cgroupProcs'> {
  return { cgroupThread: { enter, leave }, cgroupProcs: procs };
}

/** Kills the pause process, waits until it is gone, and lets go of the namespaces. Safe to repeat. */
export async function endPause({ deps, id }: SandboxContext): Promise<void> {
  const pause = deps.sandboxes.get(id).pause ?? findPause(deps.pausePath, id);
  if (pause) {
    killProcess(pause.pid, pause.startTime, 'SIGKILL');
    using signal = withDeadline(`end of pause process ${pause.pid} of sandbox ${id}`, 10_000);
    await deps.processes.exitOf(pause.pid, pause.startTime, signal);
  }
  await unpinNamespacesAside(sandboxPaths(deps, id).namespaces);
}

const writeFiles: Step<SandboxContext> = {
  name: 'write files',
  isBeside: true,
  async run({ deps, id }) {
    const { spec, hostname } = deps.sandboxes.get(id);
    await writeSandboxFiles(sandboxPaths(deps, id), spec, hostname, filesLabel(deps, id));
  },
  undo: ({ deps, id }) => unmountSandboxFiles(sandboxPaths(deps, id)),
};

function filesLabel(deps: PodDeps, id: SandboxId): string | undefined {
  const sandbox = deps.sandboxes.get(id);
  return selinuxLabels(deps, sandbox, sandbox.spec.security)?.files;
}

const attachNetwork: Step<RunContext> = {
  name: 'attach network',
  // Most of it is waiting for the plugins. It comes after the other, because its undo needs the namespace.
  isBeside: true,
  async run(ctx, signal) {
    const { deps, id } = ctx;
    const record = deps.sandboxes.get(id);
    let ips: readonly string[] = [];
    if (ownsNetwork(record)) {
      warnOfBoundPorts(record, deps.log);
      const result = ctx.network ?? (await deps.spareNetworks.attaching(id, () => addNetwork(deps, record, signal)));
      ips = result.ips.map((ip) => ip.address);
      ctx.ips = ips;
    }
    const paths = sandboxPaths(deps, id);
    writeHosts(paths, record.spec, record.hostname, ips);
    const label = filesLabel(deps, id);
    if (label !== undefined) relabelFile(paths.hosts, label);
  },
  undo: detachNetwork,
};

async function addNetwork(deps: PodDeps, record: SandboxRecord, signal: AbortSignal): Promise<CniResult> {
  const attachment = cniAttachment(deps, record);
  try {
    return await deps.cni.add(attachment, signal);
  } catch (err) {
    // What could not be taken back must have a DEL first.
    if (!deps.cni.mayLackAddress(err) || deps.cni.isAttached(attachment)) throw err;
    using limited = withDeadline('give back networks that were ready', GIVE_BACK_TIMEOUT_MS, signal);
    // Some may be given back when others hang.
    if (!(await deps.spareNetworks.giveBack(limited).catch(() => !signal.aborted))) throw err;
    return await deps.cni.add(attachment, signal);
  }
}

/** Gives the sandbox's addresses back, also when its network namespace is gone already. Safe to repeat. */
export async function detachNetwork({ deps, id }: SandboxContext): Promise<void> {
  const record = deps.sandboxes.get(id);
  if (!ownsNetwork(record)) return;
  using signal = withDeadline(`detach network of sandbox ${id}`, 60_000);
  await deps.cni.del(cniAttachment(deps, record), signal);
}

/** What CNI CHECK finds wrong with a ready sandbox's network, '' for nothing; undefined for one that has none. */
export async function networkProblem({ deps, id }: SandboxContext, signal: AbortSignal): Promise<string | undefined> {
  const record = deps.sandboxes.get(id);
  if (record.state !== 'ready' || !ownsNetwork(record)) return undefined;
  try {
    await deps.cni.check(cniAttachment(deps, record), signal);
    return '';
  } catch (err) {
    signal.throwIfAborted();
    return describe(err);
  }
}

const markReady: Step<RunContext> = {
  name: 'mark ready',
  run: ({ deps, id, ips = [] }) => deps.sandboxes.put({ ...deps.sandboxes.get(id), ips, state: 'ready' }),
};

/** RunPodSandbox, in order. The undo of each is also what a restart runs for a sandbox that was half made. */
export const runSandboxSteps: readonly Step<RunContext>[] = [
  makeFolders,
  makeCgroup,
  makeNamespaces,
  writeFiles,
  startPause,
  attachNetwork,
  markReady,
];

const pipeline: CreationPipeline<SandboxRecord, RunContext> = {
  name: RUN_SANDBOX,
  kind: 'sandbox',
  steps: runSandboxSteps,
  records: (deps) => deps.sandboxes,
  withState: (record, state) => ({ ...record, state }),
  admit: (deps, record) => checkHostPorts(record, deps.sandboxes.all()),
  forget: forgetSandbox,
};

function checkSpec(deps: PodDeps, spec: SandboxSpec, handler: Handler): void {
  checkNamespaces(spec, handler);
  // Pause runs under a filter of its own, stricter than any profile; a profile that cannot be had is told all the same.
  if (!spec.security.privileged) deps.security.seccomp.resolve(spec.security.seccomp, []);
  deps.security.selinux.checkDemand(spec.security.selinux, 'config.linux.security_context.selinux_options');
  deps.cgroups.validateParent(spec.cgroupParent);
  for (const part of ['overhead', 'resources'] as const) {
    const limits = spec[part];
    if (limits) checkLimits(limits, deps.host, `config.linux.${part}`);
  }
}

function newRecord(deps: PodDeps, spec: SandboxSpec, handler: Handler, id: SandboxId): SandboxRecord {
  return {
    id,
    name: sandboxName(spec),
    state: 'creating',
    createdAtUs: deps.clock.nowUs(),
    spec,
    handler: handler.name,
    hostname: chooseHostname(spec, id),
    pause: undefined,
    cgroup: deps.cgroups.sandboxCgroup(spec.cgroupParent, id),
    selinuxLevel: newSelinuxLevel(deps),
    ips: [],
  };
}

/** The pod's own name; on the host's network the host's; otherwise the first digits of the id, as peers do. */
function chooseHostname(spec: SandboxSpec, id: string): string {
  if (spec.hostname !== '') return spec.hostname;
  return spec.security.namespaces.network === 'node' ? hostHostname() : id.slice(0, 12);
}

function checkNamespaces(spec: SandboxSpec, handler: Handler): void {
  const modes = spec.security.namespaces;
  const field = 'config.linux.security_context.namespace_options';
  for (const kind of ['network', 'ipc'] as const) {
    if (modes[kind] !== 'pod' && modes[kind] !== 'node') throw invalid(`${field}.${kind}`, 'must be POD or NODE');
  }
  if (modes.pid === 'target') throw invalid(`${field}.pid`, 'must be POD, CONTAINER or NODE for a sandbox');
  if (!modes.user) return;
  checkUserNamespace(modes.user, `${field}.userns_options`);
  if (!handler.features.userNamespaces) {
    const why = 'it needs a runtime that knows user namespaces, and Linux 6.3';
    throw new BerthError('precondition', `${field}.userns_options: not with runtime handler ${handler.name}: ${why}`);
  }
  // What belongs to the host cannot be mounted from inside.
  for (const kind of ['ipc', 'pid'] as const)
    if (modes[kind] === 'node') throw invalid(`${field}.${kind}`, 'must not be NODE in a pod with a user namespace');
}

function namespaceKinds(spec: SandboxSpec): NamespaceKind[] {
  const modes = spec.security.namespaces;
  const kinds: NamespaceKind[] = [];
  // A pod on the host's network has the host's name too.
  if (modes.network === 'pod') kinds.push('net', 'uts');
  if (modes.ipc === 'pod') kinds.push('ipc');
  if (modes.pid === 'pod') kinds.push('pid');
  return kinds;
}

function ownsNetwork(record: SandboxRecord): boolean {
  return record.spec.security.namespaces.network === 'pod';
}

function cniAttachment(deps: PodDeps, record: SandboxRecord): CniAttachment {
  const { spec, id } = record;
  const netns = join(sandboxPaths(deps, id).namespaces, 'net');
  return {
    containerId: id,
    // After a reboot it is gone, and so is the state folder; DEL then frees the addresses without it.
    netns: existsSync(netns) ? netns : '',
    ifName: POD_INTERFACE,
    ...podNetwork(spec),
  };
}

function podNetwork(spec: SandboxSpec): PodNetwork {
  return {
    pod: { namespace: spec.namespace, name: spec.name, uid: spec.uid },
    portMappings: spec.portMappings,
    ...(spec.dns ? { dns: spec.dns } : {}),
    annotations: spec.annotations,
    cgroupPath: spec.cgroupParent,
  };
}
