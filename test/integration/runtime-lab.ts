import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { Processes } from '../../src/proc/processes.ts';
import { type BundlePaths, Bundles } from '../../src/runtime/bundle.ts';
import { xattrMarks } from '../../src/runtime/cgroups/cgroup-marks.ts';
import { CgroupTree } from '../../src/runtime/cgroups/cgroup-tree.ts';
import { ContainerCgroupFiles } from '../../src/runtime/cgroups/container-cgroup.ts';
import { modeOf, readHierarchies } from '../../src/runtime/cgroups/hierarchies.ts';
import type { ContainerSpec, MountSpec } from '../../src/runtime/container-spec.ts';
import { Execs } from '../../src/runtime/exec.ts';
import { canJoin } from '../../src/runtime/exec-join.ts';
import type { ExecRequest } from '../../src/runtime/exec-process.ts';
import { ExitWatch, type SeenExit } from '../../src/runtime/exit-watch.ts';
import type { Handler } from '../../src/runtime/handler.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { readHostFacts } from '../../src/runtime/host-facts.ts';
import { prepareLogFile } from '../../src/runtime/log-path.ts';
import { Monitor, type MonitoredContainer } from '../../src/runtime/monitor.ts';
import { resolveMounts } from '../../src/runtime/mounts.ts';
import { OciRuntime } from '../../src/runtime/oci-runtime.ts';
import type { OciSeccomp } from '../../src/runtime/oci-seccomp.ts';
import { SealedPrograms } from '../../src/runtime/sealed-programs.ts';
import { SeccompFilters } from '../../src/runtime/seccomp-filters.ts';
import { buildSpec } from '../../src/runtime/spec.ts';
import type { SpecInput } from '../../src/runtime/spec-input.ts';
import { ensureWorkingDir } from '../../src/runtime/working-dir.ts';
import { readMounts } from '../../src/sys/mount.ts';
import { buildNative } from '../fakes/build-native.ts';
import { makeBusyboxRootfs } from '../fakes/images.ts';

/** What a test wants of a container; the rest is the plainest there is. */
export interface LabContainer {
  readonly args: readonly string[];
  readonly spec?: Partial<ContainerSpec>;
  readonly mounts?: readonly Partial<MountSpec>[];
  readonly logFile?: string;
  readonly pid?: 'new' | 'host';
  readonly pidsLimit?: number;
  readonly seccomp?: OciSeccomp;
}

/** Ways of a real container, below a folder of its own: create, start, and take it all away. */
export class Lab implements AsyncDisposable {
  readonly folder: string;
  readonly stateDir: string;
  readonly rootfs: string;
  readonly handler: Handler;
  readonly processes = new Processes({ log: silentLogger, meter: silentMeter });
  readonly programs: SealedPrograms;
  readonly exits: ExitWatch;
  readonly bundles: Bundles;
  readonly cgroups = new CgroupTree(readHierarchies(), xattrMarks);
  readonly monitor: Monitor;
  readonly execs: Execs;
  readonly execJoinPath: string;
  readonly filterReaderPath: string;
  readonly filters: SeccompFilters;
  readonly runtime: OciRuntime;
  readonly #made = new Map<string, MonitoredContainer>();
  readonly #ended = new Map<string, PromiseWithResolvers<SeenExit>>();

  private constructor(folder: string, handlerName: string, stateName: string) {
    this.folder = folder;
    this.stateDir = join(folder, stateName);
    this.rootfs = join(folder, 'rootfs');
    const exitsDir = join(this.stateDir, 'exits');
    mkdirSync(exitsDir, { recursive: true });
    this.handler = {
      name: handlerName,
      path: findProgram(handlerName),
      root: join(this.stateDir, 'runtime', handlerName),
      version: '',
      features: { recursiveReadOnlyMounts: true, userNamespaces: false, checkpoint: false },
      annotations: [],
      isRunc: handlerName === 'runc',
      copiesItself: true,
      privilegedWithoutHostDevices: false,
    };
    this.exits = new ExitWatch(exitsDir, silentLogger);
    this.bundles = new Bundles(this.stateDir);
    const monitorPath = findProgram('conmon');
    const shared = { processes: this.processes, log: silentLogger };
    this.programs = new SealedPrograms({ stateDir: this.stateDir, ...shared });
    this.monitor = new Monitor({
      path: monitorPath,
      stateDir: this.stateDir,
      exitsDir,
      systemdCgroup: false,
      programs: this.programs,
      ...shared,
    });
    this.execJoinPath = buildNative('exec-join', folder);
    this.execs = new Execs({
      execMonitorPath: buildNative('exec-monitor', folder),
      execJoinPath: this.execJoinPath,
      programs: this.programs,
      ...shared,
    });
    this.filterReaderPath = buildNative('filter-reader', folder);
    this.filters = new SeccompFilters({ ...shared, stateDir: this.stateDir, filterReaderPath: this.filterReaderPath });
    this.runtime = new OciRuntime(this.handler, this.processes);
    this.exits.onExit = (id, exit) => this.#end(id).resolve(exit);
  }

  static async open(handlerName: string, stateName = 'state'): Promise<Lab> {
    const lab = new Lab(mkdtempSync('/tmp/berth-runtime-'), handlerName, stateName);
    await makeBusyboxRootfs(lab.rootfs);
    for (const name of ['resolv.conf', 'hostname', 'hosts'])
      writeFileSync(join(lab.folder, name), `${name} of the lab\n`);
    lab.exits.start();
    await lab.#prepareExecs();
    return lab;
  }

  /** Or it would be by chance which way the first commands take. */
  async #prepareExecs(): Promise<void> {
    this.execs.prepare();
    for (let look = 0; look < 500 && this.programs.readonlyPathOf(this.execJoinPath) === undefined; look++)
      await setTimeout(10);
    assert.ok(this.programs.readonlyPathOf(this.execJoinPath));
  }

  newId(): string {
    return randomBytes(32).toString('hex');
  }

  async spec(id: string, wish: LabContainer): Promise<SpecInput> {
    const host = readHostFacts(silentLogger);
    const spec = { ...plainContainer, args: wish.args, ...wish.spec };
    return {
      spec,
      sandbox: {
        id: 'lab',
        name: 'lab',
        namespace: 'default',
        uid: 'uid',
        annotations: {},
        userNamespace: undefined,
        hostname: 'lab-host',
        namespaces: { network: 'new', ipc: 'new', uts: 'new', pid: wish.pid ?? 'new' },
        files: {
          resolvConf: join(this.folder, 'resolv.conf'),
          hostname: join(this.folder, 'hostname'),
          hosts: join(this.folder, 'hosts'),
          shm: '/dev/shm',
        },
      },
      image: { entrypoint: [], cmd: [], env: ['FROM=image'], workingDir: '' },
      user: { uid: 0, gid: 0, supplementalGroups: [0] },
      capabilities: {
        bounding: ['CAP_KILL'],
        effective: ['CAP_KILL'],
        permitted: ['CAP_KILL'],
        inheritable: [],
        ambient: [],
      },
      seccomp: wish.seccomp,
      apparmorProfile: undefined,
      selinux: undefined,
      devices: { nodes: [], rules: [{ allow: false, access: 'rwm' }] },
      mounts: await resolveMounts(
        (wish.mounts ?? []).map((mount) => ({ ...plainMount, ...mount })),
        { recursiveReadOnly: true, handler: this.handler.name, readHostMounts: readMounts },
      ),
      rootfs: this.rootfs,
      cgroupsPath: `/berth-lab/${id}`,
      cgroupAnnotations: {},
      pidsLimit: wish.pidsLimit ?? 100,
      defaultEnv: [],
      ulimits: [],
      visibleAnnotations: [],
      host,
    };
  }

  async create(
    wish: LabContainer,
    signal: AbortSignal,
    id = this.newId(),
  ): Promise<{ id: string } & MonitoredContainer> {
    const spec = buildSpec(await this.spec(id, wish));
    const bundle = this.bundles.write(id, spec);
    ensureWorkingDir(this.rootfs, spec.process.cwd);
    if (wish.logFile) prepareLogFile(wish.logFile);
    const made = await this.monitor.create(
      {
        containerId: id,
        bundle,
        handler: this.handler,
        logFile: wish.logFile ?? '',
        stdin: wish.spec?.stdin ?? false,
        stdinOnce: wish.spec?.stdinOnce ?? false,
        tty: spec.process.terminal,
        command: spec.process.args[0] ?? '',
        restoreFrom: '',
      },
      signal,
    );
    this.#made.set(id, made);
    return { id, ...made };
  }

  async run(wish: LabContainer, signal: AbortSignal): Promise<{ id: string } & MonitoredContainer> {
    const id = this.newId();
    const missing = this.filters.missing(buildSpec(await this.spec(id, wish)), this.handler);
    const made = await this.create(wish, signal, id);
    if (missing) await this.filters.learn(missing, made.init, signal);
    await this.runtime.start(made.id, signal);
    return made;
  }

  /** Resolves with the container's exit as its monitor saw it. */
  async exitOf(id: string): Promise<SeenExit> {
    return await this.#end(id).promise;
  }

  paths(id: string): BundlePaths {
    return this.bundles.paths(id);
  }

  async exec(id: string, args: readonly string[], signal: AbortSignal, timeoutMs = 0) {
    return await this.execs.run(this.execRequest(id, args), timeoutMs, signal);
  }

  cgroupOf(id: string): ContainerCgroupFiles {
    return new ContainerCgroupFiles(this.cgroups, this.bundles.readSpec(id).linux.cgroupsPath);
  }

  execRequest(id: string, args: readonly string[]): ExecRequest {
    const spec = this.bundles.readSpec(id);
    const init = this.#made.get(id)?.init;
    const canBeJoined = init && canJoin(this.handler, spec);
    const { seccomp } = spec.linux;
    const filter = seccomp ? this.filters.find(seccomp, this.handler) : ('none' as const);
    const joinable =
      canBeJoined && filter ? { init, cgroups: this.cgroupOf(id).entriesFor(init.pid), filter } : undefined;
    return {
      containerId: id,
      bundle: this.paths(id),
      handler: this.handler,
      process: spec.process,
      joinable,
      expectMoves() {},
      args,
    };
  }

  async remove(id: string): Promise<void> {
    const signal = AbortSignal.timeout(60_000);
    await this.runtime.delete(id, { force: true }, signal);
    const made = this.#made.get(id);
    if (made) {
      await this.processes.exitOf(made.init.pid, made.init.startTime, signal);
      await this.processes.exitOf(made.monitor.pid, made.monitor.startTime, signal);
    }
    this.#made.delete(id);
    this.bundles.remove(id);
    this.exits.remove(id);
  }

  /** Removes every container, and fails if anything but empty folders is left of them. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of [...this.#made.keys()]) await this.remove(id);
    this.exits.close();
    await this.programs.close();
    await this.processes.close();
    const bundles = this.bundles.ids();
    const left = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && cmdline(pid).includes(this.folder));
    removeEmptyCgroups();
    rmSync(this.folder, { recursive: true, force: true });
    assert.deepEqual({ bundles, left: left.map(cmdline) }, { bundles: [], left: [] });
  }

  #end(id: string): PromiseWithResolvers<SeenExit> {
    const known = this.#ended.get(id) ?? Promise.withResolvers<SeenExit>();
    this.#ended.set(id, known);
    return known;
  }
}

const HUGETLB = '/sys/fs/cgroup/hugetlb';

/** Mounts what crun wants on hybrid hosts, for as long as the result lives; undefined where that is impossible. */
export function mountHugetlb(): AsyncDisposable | undefined {
  const hierarchies = readHierarchies();
  if (modeOf(hierarchies) === 'v2' || hierarchies.some(({ mountPoint }) => mountPoint === HUGETLB))
    return { async [Symbol.asyncDispose]() {} };
  try {
    // What is there and not mounted is left of a test that was killed.
    mkdirSync(HUGETLB, { recursive: true });
    execFileSync('mount', ['-t', 'cgroup', '-o', 'hugetlb', 'hugetlb', HUGETLB], { stdio: 'ignore' });
  } catch {
    if (existsSync(HUGETLB)) rmdirSync(HUGETLB);
    return undefined;
  }
  return { [Symbol.asyncDispose]: unmountHugetlb };
}

// A hierarchy whose last cgroup has just gone outlives its unmounting, and keeps the controller from cgroup v2. It can
// only be had back by mounting it once more, and nothing tells when.
async function unmountHugetlb(): Promise<void> {
  execFileSync('umount', [HUGETLB]);
  for (let left = 100; left > 0 && isHugetlbV1(); left--) {
    await setTimeout(50);
    execFileSync('mount', ['-t', 'cgroup', '-o', 'hugetlb', 'hugetlb', HUGETLB]);
    execFileSync('umount', [HUGETLB]);
  }
  rmdirSync(HUGETLB);
}

function isHugetlbV1(): boolean {
  return !/^hugetlb\t0\t/m.test(readFileSync('/proc/cgroups', 'utf8'));
}

const plainMount: MountSpec = {
  containerPath: '',
  hostPath: '',
  readonly: false,
  recursiveReadOnly: false,
  selinuxRelabel: false,
  propagation: 'private',
  uidMappings: [],
  gidMappings: [],
  image: undefined,
  imageSubPath: '',
  options: [],
};

/** A container with nothing asked for. */
export const plainContainer: ContainerSpec = {
  name: 'lab',
  attempt: 0,
  image: { reference: 'busybox', userSpecified: '', runtimeHandler: '', annotations: {} },
  command: [],
  args: [],
  workingDir: '',
  env: [],
  mounts: [],
  devices: [],
  cdiDevices: [],
  labels: {},
  annotations: {},
  logPath: '',
  stdin: false,
  stdinOnce: false,
  tty: false,
  stopSignal: undefined,
  resources: { hugepageLimits: [], unified: {} },
  security: {
    capabilities: { add: [], drop: [], addAmbient: [] },
    privileged: false,
    namespaces: { network: 'pod', pid: 'container', ipc: 'pod', targetId: '', user: undefined },
    selinux: undefined,
    runAsUser: undefined,
    runAsGroup: undefined,
    runAsUsername: '',
    readonlyRootfs: false,
    supplementalGroups: [],
    supplementalGroupsPolicy: 'merge',
    noNewPrivs: false,
    maskedPaths: undefined,
    readonlyPaths: undefined,
    seccomp: undefined,
    apparmor: undefined,
  },
};

function cmdline(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

function removeEmptyCgroups(): void {
  for (const hierarchy of readdirSync('/sys/fs/cgroup')) {
    try {
      rmdirSync(join('/sys/fs/cgroup', hierarchy, 'berth-lab'));
    } catch {
      // Not there, or another test's containers are in it.
    }
  }
}
