import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  ListContainersRequest,
  ListPodSandboxRequest,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { describe } from '../../src/base/errors.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { type CommandResult, runCommand, type Transport } from '../fakes/stream-client.ts';
import { type BerthdOptions, TestBerthd } from '../harness/berthd.ts';
import type { TestApiServer } from './api-server.ts';
import { type KubeletOptions, NODE, TestKubelet } from './kubelet.ts';
import { type ContainerReport, holds, type PodStatus } from './pods.ts';
import { until } from './until.ts';

/** Names the folder that logs are kept in; none are if it is not set. */
export const OUTPUT_VARIABLE = 'BERTH_KUBELET_OUTPUT';
export const IMAGE = 'example.com/busybox:test';
const POD_TIMEOUT_MS = 90_000;

/** How a lab's berthd and kubelet shall be. */
export interface KubeletLabOptions extends Omit<KubeletOptions, 'endpoint' | 'kubeconfig'> {
  readonly berthd?: BerthdOptions;
  /** Where pods are made; undefined: they are static ones. */
  readonly api?: TestApiServer;
}

/** A container of a manifest: fields of core/v1. */
export type ContainerFields = Readonly<Record<string, unknown>> & { readonly name?: string };

/** A berthd with a busybox image in it, and a kubelet that works with it. */
export class KubeletLab implements AsyncDisposable {
  readonly berthd: TestBerthd;
  readonly kubelet: TestKubelet;
  readonly #api: TestApiServer | undefined;

  private constructor(berthd: TestBerthd, kubelet: TestKubelet, api: TestApiServer | undefined) {
    this.berthd = berthd;
    this.kubelet = kubelet;
    this.#api = api;
  }

  static async start({ berthd: berthdOptions = {}, api, ...options }: KubeletLabOptions = {}): Promise<KubeletLab> {
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    await using made = new AsyncDisposableStack();
    try {
      await buildBusyboxLayout(layout, { tag: IMAGE });
      const berthd = made.use(new TestBerthd(berthdOptions));
      await berthd.start();
      await berthd.call(AdminService.loadImage, { path: layout, name: '' });
      const kubelet = made.use(
        new TestKubelet({ endpoint: berthd.endpoint, ...options, ...(api ? { kubeconfig: api.kubeconfig } : {}) }),
      );
      await kubelet.start();
      made.move();
      return new KubeletLab(berthd, kubelet, api);
    } finally {
      rmSync(layout, { recursive: true });
    }
  }

  /** Makes a pod. A container without a command sleeps; `fields` are more of the pod's spec. */
  run(name: string, containers: readonly ContainerFields[], fields: PodFields = {}): void {
    const { initContainers, annotations, ...rest } = fields;
    const init = initContainers === undefined ? {} : { initContainers: initContainers.map(filled) };
    const metadata = { name, ...(annotations ? { annotations } : {}) };
    const spec = { terminationGracePeriodSeconds: 1, ...rest, ...init, containers: containers.map(filled) };
    if (!this.#api) {
      this.kubelet.put({ metadata, spec });
      return;
    }
    const status = { phase: 'Pending' };
    this.#api.put('pods', {
      metadata: { ...metadata, namespace: 'default' },
      spec: { ...API_DEFAULTS, ...spec },
      status,
    });
  }

  /** Takes a pod away; it goes on for its grace period. */
  drop(name: string): void {
    if (this.#api) this.#api.remove(name, 1);
    else this.kubelet.remove(name);
  }

  /** What is said of a pod. */
  async find(name: string): Promise<PodStatus | undefined> {
    return this.#api ? (this.#api.find('pods', name) as PodStatus | undefined) : await this.kubelet.find(name);
  }

  /** Waits until the kubelet's word of a pod is as wanted, and returns it. */
  async pod(
    name: string,
    what: string,
    wanted: (pod: PodStatus) => boolean,
    timeoutMs = POD_TIMEOUT_MS,
  ): Promise<PodStatus> {
    let seen: PodStatus | undefined;
    try {
      return await until(`${name} ${what}`, timeoutMs, async () => {
        seen = await this.find(name);
        return seen && wanted(seen) ? seen : undefined;
      });
    } catch (err) {
      throw new Error(`of ${name} the kubelet says ${JSON.stringify(seen?.status, undefined, 1)}`, { cause: err });
    }
  }

  /** Waits until all containers of a pod run and are ready. */
  async ready(name: string): Promise<PodStatus> {
    return await this.pod(name, 'to be ready', (pod) => holds(pod, 'Ready'));
  }

  /** Takes a pod away, and waits until nothing of it runs. */
  async remove(name: string): Promise<void> {
    this.drop(name);
    await until(`${name} to be gone`, POD_TIMEOUT_MS, async () => {
      const isKnown = (await this.find(name)) !== undefined;
      return isKnown || (await this.sandboxes(name)).some(({ isReady }) => isReady) ? undefined : true;
    });
  }

  /** The sandboxes of a pod that berthd has. */
  async sandboxes(name: string): Promise<{ readonly id: string; readonly isReady: boolean }[]> {
    const { items } = await this.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    return items
      .filter(({ metadata }) => metadata?.name === this.#fullName(name))
      .map(({ id, state }) => ({ id, isReady: state === PodSandboxState.SANDBOX_READY }));
  }

  /** Runs a command in a container through the kubelet's API. */
  async exec(
    pod: string,
    command: readonly string[],
    { container = 'main', transport = 'spdy', stdin }: ExecOptions = {},
  ): Promise<CommandResult> {
    const query = new URLSearchParams();
    for (const word of command) query.append('command', word);
    query.append('output', '1');
    query.append('error', '1');
    if (stdin !== undefined) query.append('input', '1');
    const url = `${this.kubelet.url}/exec/default/${this.#fullName(pod)}/${container}?${query}`;
    return await runCommand(url, transport, stdin === undefined ? {} : { stdin }, { ca: this.kubelet.authority });
  }

  /** The output of a command in a container that must succeed, without white space around it. */
  async output(pod: string, ...command: string[]): Promise<string> {
    const { stdout, stderr, exitCode } = await this.exec(pod, command);
    assert.equal(exitCode, 0, `${command.join(' ')}: ${stderr}`);
    return stdout.toString().trim();
  }

  /** What a container wrote, without times. */
  async logs(pod: string, container = 'main', query = ''): Promise<string> {
    const { status, text } = await this.kubelet.get(
      `/containerLogs/default/${this.#fullName(pod)}/${container}${query}`,
    );
    assert.equal(status, 200, text);
    return text;
  }

  /** The ids of all containers that berthd has, ended ones too, by pod and name. */
  async containers(): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>();
    const { containers } = await this.berthd.call(runtime.listContainers, ListContainersRequest.create());
    for (const { id, labels } of containers) {
      const name = `${labels['io.kubernetes.pod.name']}/${labels['io.kubernetes.container.name']}`;
      found.set(name, [...(found.get(name) ?? []), id]);
    }
    return found;
  }

  /** The first process of a container, by its CRI id. */
  async pid(containerId: string): Promise<number> {
    const { info } = await this.berthd.call(runtime.containerStatus, { containerId, verbose: true });
    const { pid } = JSON.parse(info['info'] ?? '{}') as { pid?: number };
    return pid ?? assert.fail(`no process of ${containerId}`);
  }

  /** The kubelet's name of a pod. */
  #fullName(name: string): string {
    return this.#api ? name : `${name}-${NODE}`;
  }

  /** Tells what both have logged when a test has failed. */
  afterTest(test: object): void {
    if (!('passed' in test) || test.passed !== false) return;
    process.stderr.write(`kubelet's log:\n${this.kubelet.log()}\nberthd's log:\n${this.berthd.log()}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { metadata } of this.#api?.list('pods') ?? []) this.drop(metadata.name);
    const folder = process.env[OUTPUT_VARIABLE];
    const name = basename(this.kubelet.root);
    if (folder !== undefined) copyFileSync(this.berthd.logFile, join(folder, `${name}-berthd.log`));
    this.kubelet.keepLogAs(folder === undefined ? undefined : join(folder, `${name}-kubelet.log`));
    const problems: unknown[] = [];
    for (const part of [this.kubelet, this.berthd]) {
      await part[Symbol.asyncDispose]().catch((err: unknown) => problems.push(err));
    }
    if (problems.length === 0) return;
    throw new Error(`afterwards something is left: ${problems.map(describe).join('; ')}`, { cause: problems });
  }
}

/** How to run a command in a container. */
export interface ExecOptions {
  readonly container?: string;
  readonly transport?: Transport;
  readonly stdin?: string;
}

/** Fields of a pod's spec in core/v1. */
export type PodFields = Readonly<Record<string, unknown>> & {
  readonly initContainers?: readonly ContainerFields[];
  readonly annotations?: Readonly<Record<string, string>>;
};

/** What an API server fills in. */
const API_DEFAULTS = {
  restartPolicy: 'Always',
  dnsPolicy: 'ClusterFirst',
  schedulerName: 'default-scheduler',
  securityContext: {},
  enableServiceLinks: true,
  nodeName: NODE,
};
const DEFAULTS = {
  terminationMessagePath: '/dev/termination-log',
  terminationMessagePolicy: 'File',
  name: 'main',
  image: IMAGE,
  imagePullPolicy: 'IfNotPresent',
  command: ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 1000 & wait; done'],
};

function filled(container: ContainerFields): object {
  return { ...DEFAULTS, ...container };
}

/** What the kubelet says of a container of a pod; the first one if no name is given. */
export function container({ status }: PodStatus, name?: string): ContainerReport | undefined {
  const all = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  return name === undefined ? status.containerStatuses?.[0] : all.find((one) => one.name === name);
}
