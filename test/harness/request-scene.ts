import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  CheckpointContainerRequest,
  CheckpointPodRequest,
  ContainerState,
  ListContainersRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { buildCriuRuntime } from '../fakes/criu-runtime.ts';
import type { ContainerFields } from './cri-lab.ts';
import { readCgroups, readMounts } from './machine-state.ts';
import { PodLab } from './pod-lab.ts';

/** What stands for an id or place in a generated request: those of a run are not those of its repetition. */
const WORD = /@(pod|bare|stopped|running|exited|created|image|registry|scratch|cgroup|unique)(?:#(\d+))?/g;
const ENDS_AT_ONCE = ['sh', '-c', 'trap "exit 0" TERM; sleep 1000 & wait'];

/**
 * What generated requests speak of: a pod with a container that runs, one that has ended and one that was never started,
 * whose handler can checkpoint them (a stand-in for CRIU), checkpoints of both kinds, a pod of the default handler without
 * containers, and a stopped pod. Whatever a request has changed is put back.
 */
export class RequestScene implements AsyncDisposable {
  readonly lab: PodLab;
  /** Folder for all that requests write to. */
  readonly scratch: string;
  readonly #ids = new Map<string, string>();
  #set: readonly string[] = [];
  #uniques = 0;

  private constructor(lab: PodLab, scratch: string) {
    this.lab = lab;
    this.scratch = scratch;
  }

  /** The only registry that can be reached is `registry`, `host:port` without TLS. */
  static async start(registry: string): Promise<RequestScene> {
    const scratch = mkdtempSync(join(tmpdir(), 'berth-requests-'));
    mkdirSync(join(scratch, 'data'));
    writeFileSync(join(scratch, 'profile.json'), '{"defaultAction":"SCMP_ACT_ALLOW"}');
    makeOddFiles(scratch);
    const registries = join(scratch, 'registries.conf');
    writeFileSync(registries, registriesConf(registry));
    const { path, binDir } = buildCriuRuntime(join(scratch, 'criu'));
    const config = `[image]\nregistries_conf = "${registries}"\n[runtime.handlers.criu]\npath = "${path}"`;
    const pathBefore = process.env['PATH'] ?? '';
    process.env['PATH'] = `${binDir}:${pathBefore}`;
    const lab = await PodLab.start({ config });
    process.env['PATH'] = pathBefore;
    const scene = new RequestScene(lab, scratch);
    scene.#ids.set('image', scene.lab.imageId);
    scene.#ids.set('registry', registry);
    await scene.#build();
    return scene;
  }

  /** A text with what its words stand for: ids, the beginning of one (`@pod#12`), folders, `@unique` for a new number. */
  resolve(text: string): string {
    return text.replaceAll(WORD, (_whole, word: string, chars: string | undefined) => {
      if (word === 'scratch') return this.scratch;
      if (word === 'cgroup') return this.lab.cgroupParent;
      if (word === 'unique') return String(++this.#uniques);
      const id = this.#ids.get(word) ?? assert.fail(`no id for @${word}`);
      return chars === undefined ? id : id.slice(0, Number(chars));
    });
  }

  /** The pods and containers that are not of this scene. */
  async strangers(): Promise<{ pods: string[]; containers: string[] }> {
    const own = new Set(this.#ids.values());
    const { items } = await this.lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    const { containers } = await this.lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
    return {
      pods: items.flatMap(({ id }) => (own.has(id) ? [] : [id])),
      containers: containers.flatMap(({ id }) => (own.has(id) ? [] : [id])),
    };
  }

  /** Records, folders, mounts, cgroups and log files that were not there when the scene was set. */
  leftBehind(): string[] {
    const known = new Set(this.#set);
    // What is written down of the scene's own pods, other requests have brought about.
    const own = [...this.#ids].flatMap(([word, id]) => (word === 'image' || word === 'registry' ? [] : [id]));
    return this.#stock().filter((name) => !known.has(name) && !own.some((id) => name.includes(id)));
  }

  /** Removes what requests have made, each by its id, and makes new what they have ended, removed or (`isDirty`) changed. */
  async putBack(isDirty: boolean): Promise<void> {
    const { pods, containers } = await this.strangers();
    for (const containerId of containers) await this.lab.berthd.call(runtime.removeContainer, { containerId });
    for (const pod of pods) await this.lab.removePod(pod);
    for (const name of this.#logs()) rmSync(join(this.scratch, name));
    this.#emptyFolder('out');
    if (!isDirty && (await this.#isWhole())) return;
    await this.#clear();
    await this.#build();
  }

  /** Removes all of it and looks whether anything is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#clear();
      this.lab.berthd.assertNoTraces();
    } finally {
      rmSync(this.scratch, { recursive: true });
      await this.lab.close();
    }
  }

  /** How many files berthd holds open. */
  openFiles(): number {
    return readdirSync(`/proc/${this.lab.berthd.pid}/fd`).length;
  }

  async #build(): Promise<void> {
    const { lab } = this;
    // Logs beside the odd files, so that a log path can name one of them.
    lab.handler = 'criu';
    const pod = await lab.runPod(lab.podConfig({ logDirectory: this.scratch }));
    lab.handler = '';
    const container = (fields: ContainerFields): ContainerFields => ({ command: ENDS_AT_ONCE, ...fields });
    const running = await lab.start(pod, container({ metadata: { name: 'main' } }));
    const exited = await lab.start(pod, container({ command: ['true'] }));
    const created = await lab.create(pod, container({}));
    const onHost = { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } };
    const hostPod = { logDirectory: this.scratch, linux: { securityContext: onHost } };
    const bare = await lab.runPod(lab.podConfig(hostPod));
    const stopped = await lab.runPod(lab.podConfig(hostPod));
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: stopped });
    await lab.ended(exited);
    const archive = { containerId: running, location: join(this.scratch, 'container.tar') };
    await lab.berthd.call(runtime.checkpointContainer, CheckpointContainerRequest.create(archive));
    const folder = { podSandboxId: pod, outputPath: this.#emptyFolder('checkpoint'), containerIds: [running] };
    await lab.berthd.call(runtime.checkpointPod, CheckpointPodRequest.create(folder));
    this.#emptyFolder('out');
    for (const name of this.#logs()) rmSync(join(this.scratch, name));
    this.#set = this.#stock();
    for (const [word, id] of Object.entries({ pod, bare, running, exited, created, stopped })) this.#ids.set(word, id);
  }

  #stock(): string[] {
    const { berthd, cgroupParent } = this.lab;
    const places = readMounts().filter((path) => path.startsWith(berthd.root) || path.startsWith(berthd.state));
    const cgroups = readCgroups().filter((path) => path.includes(cgroupParent));
    const traces: Readonly<Record<string, readonly string[]>> = { ...berthd.traces() };
    const kept = Object.entries(traces).flatMap(([place, names]) => names.map((name) => `${place} ${name}`));
    return [...places, ...cgroups, ...kept, ...this.#logs()];
  }

  // Those of containers that were made belong to the client, those of refused ones shall be gone.
  #logs(): string[] {
    return readdirSync(this.scratch).filter((name) => name.endsWith('.log'));
  }

  #emptyFolder(name: string): string {
    const path = join(this.scratch, name);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path);
    return path;
  }

  async #clear(): Promise<void> {
    for (const word of ['pod', 'bare', 'stopped']) await this.lab.removePod(this.#ids.get(word) ?? '');
  }

  async #isWhole(): Promise<boolean> {
    const { items } = await this.lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    const { containers } = await this.lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
    const pods = new Map(items.map(({ id, state }) => [id, state]));
    const states = new Map(containers.map(({ id, state }) => [id, state]));
    return (
      pods.get(this.resolve('@pod')) === PodSandboxState.SANDBOX_READY &&
      pods.get(this.resolve('@bare')) === PodSandboxState.SANDBOX_READY &&
      pods.get(this.resolve('@stopped')) === PodSandboxState.SANDBOX_NOTREADY &&
      states.get(this.resolve('@running')) === ContainerState.CONTAINER_RUNNING &&
      states.get(this.resolve('@exited')) === ContainerState.CONTAINER_EXITED &&
      states.get(this.resolve('@created')) === ContainerState.CONTAINER_CREATED
    );
  }
}

function registriesConf(registry: string): string {
  const blocked = ['docker.io', 'example.com', '*.com', '*.io', '*.net', '*.org'];
  const tables = blocked.map((prefix) => `[[registry]]\nprefix = "${prefix}"\nblocked = true`);
  return [...tables, `[[registry]]\nlocation = "${registry}"\ninsecure = true`].join('\n');
}

/** What blocks who opens it, never ends, leads nowhere or round in circles. */
function makeOddFiles(folder: string): void {
  const path = (name: string): string => join(folder, name);
  execFileSync('mknod', [path('pipe'), 'p']);
  execFileSync('mknod', [path('zero'), 'c', '1', '5']);
  // A socket that its server has left.
  execFileSync(process.execPath, [
    '-e',
    'net.createServer().listen(process.argv[1], () => process.exit())',
    path('socket'),
  ]);
  symlinkSync('loop', path('loop'));
  symlinkSync('nowhere', path('dangling'));
}
