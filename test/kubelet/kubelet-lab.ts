import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import { ListContainersRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { type CommandResult, runCommand, type Transport } from '../fakes/stream-client.ts';
import { type BerthdOptions, TestBerthd } from '../harness/berthd.ts';
import { type KubeletOptions, NODE, TestKubelet } from './kubelet.ts';
import { type ContainerReport, holds, type PodStatus } from './pods.ts';
import { until } from './until.ts';

export const IMAGE = 'example.com/busybox:test';
const POD_TIMEOUT_MS = 90_000;

/** How a lab's berthd and kubelet shall be. */
export interface KubeletLabOptions extends Omit<KubeletOptions, 'endpoint'> {
  readonly berthd?: BerthdOptions;
}

/** A container of a manifest: fields of core/v1. */
export type ContainerFields = Readonly<Record<string, unknown>> & { readonly name?: string };

/** A berthd with a busybox image in it, and a kubelet that works with it. */
export class KubeletLab implements AsyncDisposable {
  readonly berthd: TestBerthd;
  readonly kubelet: TestKubelet;

  private constructor(berthd: TestBerthd, kubelet: TestKubelet) {
    this.berthd = berthd;
    this.kubelet = kubelet;
  }

  static async start({ berthd: berthdOptions = {}, ...options }: KubeletLabOptions = {}): Promise<KubeletLab> {
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    await using made = new AsyncDisposableStack();
    try {
      await buildBusyboxLayout(layout, { tag: IMAGE });
      const berthd = made.use(new TestBerthd(berthdOptions));
      await berthd.start();
      await berthd.call(AdminService.loadImage, { path: layout, name: '' });
      const kubelet = made.use(new TestKubelet({ endpoint: berthd.endpoint, ...options }));
      await kubelet.start();
      made.move();
      return new KubeletLab(berthd, kubelet);
    } finally {
      rmSync(layout, { recursive: true });
    }
  }

  /** Makes a static pod. A container without a command sleeps; `fields` are more of the pod's spec. */
  run(name: string, containers: readonly ContainerFields[], fields: Readonly<Record<string, unknown>> = {}): void {
    const filled = (list: readonly ContainerFields[]): object[] =>
      list.map((container) => ({ ...DEFAULTS, ...container }));
    const { initContainers, annotations, ...rest } = fields as {
      readonly initContainers?: readonly ContainerFields[];
      readonly annotations?: Readonly<Record<string, string>>;
    };
    const init = initContainers === undefined ? {} : { initContainers: filled(initContainers) };
    this.kubelet.put({
      metadata: { name, ...(annotations ? { annotations } : {}) },
      spec: { terminationGracePeriodSeconds: 1, ...rest, ...init, containers: filled(containers) },
    });
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
        seen = await this.kubelet.find(name);
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

  /** Takes a pod away, and waits until the kubelet has forgotten it. */
  async remove(name: string): Promise<void> {
    this.kubelet.remove(name);
    await until(`${name} to be gone`, POD_TIMEOUT_MS, async () =>
      (await this.kubelet.find(name)) === undefined ? true : undefined,
    );
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
    const url = `${this.kubelet.url}/exec/default/${pod}-${NODE}/${container}?${query}`;
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
    const { status, text } = await this.kubelet.get(`/containerLogs/default/${pod}-${NODE}/${container}${query}`);
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

  /** Tells what both have logged when a test has failed. */
  afterTest(test: object): void {
    if (!('passed' in test) || test.passed !== false) return;
    process.stderr.write(`kubelet's log:\n${this.kubelet.log()}\nberthd's log:\n${this.berthd.log()}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await using stack = new AsyncDisposableStack();
    stack.use(this.berthd);
    stack.use(this.kubelet);
  }
}

/** How to run a command in a container. */
export interface ExecOptions {
  readonly container?: string;
  readonly transport?: Transport;
  readonly stdin?: string;
}

const DEFAULTS = {
  name: 'main',
  image: IMAGE,
  imagePullPolicy: 'IfNotPresent',
  command: ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 1000 & wait; done'],
};

/** What the kubelet says of a container of a pod; the first one if no name is given. */
export function container({ status }: PodStatus, name?: string): ContainerReport | undefined {
  const all = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  return name === undefined ? status.containerStatuses?.[0] : all.find((one) => one.name === name);
}
