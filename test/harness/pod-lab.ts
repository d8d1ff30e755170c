import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import type { ServiceError } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  type ContainerConfig,
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxStatusRequest,
  type PodSandboxStatusResponse,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, type FixtureConfig } from '../fakes/images.ts';
import { TestBerthd } from './berthd.ts';

/** Fields of a pod's configuration that a test cares about. */
export type PodFields = NonNullable<Parameters<typeof PodSandboxConfig.create>[0]>;
/** Fields of a container's configuration that a test cares about. */
export type ContainerFields = NonNullable<Parameters<typeof ContainerConfig.create>[0]>;

/** How a lab's berthd and image shall be. */
export interface LabOptions {
  /** More lines of berth.toml. */
  readonly config?: string;
  readonly root?: string;
  /** Of the image. */
  readonly image?: FixtureConfig;
  readonly files?: Readonly<Record<string, string>>;
}

/** A process that ends by itself is waited for this long. */
const END_TIMEOUT_MS = 20_000;
const OWN_PID = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };

/** One line of a container's log. */
export interface LogLine {
  readonly timeMs: number;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** A berthd with a busybox image in it, and short words for what tests do with pods. */
export class PodLab {
  readonly image = 'example.com/busybox:test';
  readonly berthd: TestBerthd;
  readonly imageId: string;
  /** The handler for pods of this lab; '' is the default. */
  handler = '';
  #pods = 0;
  #containers = 0;

  private constructor(berthd: TestBerthd, imageId: string) {
    this.berthd = berthd;
    this.imageId = imageId;
  }

  static async start({ image = {}, files = {}, ...options }: LabOptions = {}): Promise<PodLab> {
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    const berthd = new TestBerthd(options);
    try {
      await buildBusyboxLayout(layout, { tag: 'example.com/busybox:test', config: image, files });
      await berthd.start();
      const { images } = await berthd.call(AdminService.loadImage, { path: layout });
      assert.equal(images.length, 1);
      return new PodLab(berthd, images[0]?.id ?? '');
    } catch (err) {
      await berthd[Symbol.asyncDispose]();
      throw err;
    } finally {
      rmSync(layout, { recursive: true });
    }
  }

  /** Removes all pods, so that a test that failed halfway does not make the next one fail, and looks what is left. */
  async afterTest(test: object, kept: readonly string[] = []): Promise<void> {
    if ('passed' in test && test.passed === false) process.stderr.write(`berthd's log:\n${this.berthd.log()}\n`);
    const { items } = await this.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    await Promise.all(items.flatMap(({ id }) => (kept.includes(id) ? [] : [this.removePod(id)])));
    if (kept.length === 0) this.berthd.assertNoTraces();
  }

  async close(): Promise<void> {
    await this.berthd[Symbol.asyncDispose]();
  }

  podConfig(fields: PodFields = {}): PodSandboxConfig {
    this.#pods += 1;
    const name = `pod-${this.#pods}`;
    return PodSandboxConfig.create({
      metadata: { name, namespace: 'test', uid: `uid-${this.#pods}`, attempt: 0 },
      logDirectory: join(this.berthd.root, 'logs', name),
      ...fields,
      // A cgroup of this lab's own: what is left in it is its own fault.
      linux: { cgroupParent: `/${basename(this.berthd.state)}`, securityContext: OWN_PID, ...fields.linux },
    });
  }

  async runPod(config: PodSandboxConfig = this.podConfig()): Promise<string> {
    const request = RunPodSandboxRequest.create({ config, runtimeHandler: this.handler });
    return (await this.berthd.call(runtime.runPodSandbox, request)).podSandboxId;
  }

  async podStatus(podSandboxId: string, verbose = false): Promise<PodSandboxStatusResponse> {
    return await this.berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId, verbose }));
  }

  async ipOf(podSandboxId: string): Promise<string> {
    return (await this.podStatus(podSandboxId)).status?.network?.ip ?? '';
  }

  /** Facts of a verbose status. */
  async podInfo(podSandboxId: string): Promise<{ pid: number; cgroup: string }> {
    return JSON.parse((await this.podStatus(podSandboxId, true)).info['info'] ?? '{}') as {
      pid: number;
      cgroup: string;
    };
  }

  async removePod(podSandboxId: string): Promise<void> {
    await this.berthd.call(runtime.stopPodSandbox, { podSandboxId });
    await this.berthd.call(runtime.removePodSandbox, { podSandboxId });
  }

  containerRequest(podSandboxId: string, fields: ContainerFields): CreateContainerRequest {
    this.#containers += 1;
    const name = fields.metadata?.name ?? `container-${this.#containers}`;
    const config = {
      metadata: { name },
      image: { image: this.image },
      logPath: `${name}.log`,
      command: ['sleep', '1000'],
      ...fields,
    };
    return CreateContainerRequest.create({ podSandboxId, config });
  }

  async create(podSandboxId: string, fields: ContainerFields = {}): Promise<string> {
    return (await this.berthd.call(runtime.createContainer, this.containerRequest(podSandboxId, fields))).containerId;
  }

  async start(podSandboxId: string, fields: ContainerFields = {}): Promise<string> {
    const containerId = await this.create(podSandboxId, fields);
    await this.berthd.call(runtime.startContainer, { containerId });
    return containerId;
  }

  /** Runs a container to its end. */
  async run(podSandboxId: string, fields: ContainerFields): Promise<ContainerStatus> {
    return await this.ended(await this.start(podSandboxId, fields));
  }

  /** Runs a container to its end and returns what it wrote to stdout; it must have succeeded. */
  async output(podSandboxId: string, fields: ContainerFields): Promise<string> {
    const status = await this.run(podSandboxId, fields);
    const log = readLog(status.logPath);
    const text = log.map((line) => line.text).join('\n');
    assert.equal(status.exitCode, 0, text);
    await this.berthd.call(runtime.removeContainer, { containerId: status.id });
    rmSync(status.logPath);
    return log.flatMap(({ stream, text }) => (stream === 'stdout' ? [text] : [])).join('\n');
  }

  /** The error with which a container cannot be created. */
  async refused(podSandboxId: string, fields: ContainerFields): Promise<ServiceError> {
    return await this.berthd.fails(runtime.createContainer, this.containerRequest(podSandboxId, fields));
  }

  async status(containerId: string): Promise<ContainerStatus> {
    const request = ContainerStatusRequest.create({ containerId });
    const { status } = await this.berthd.call(runtime.containerStatus, request);
    assert.ok(status);
    return status;
  }

  /** Facts of a verbose status. */
  async info(containerId: string): Promise<{ pid: number; monitorPid: number; runtimeSpec: unknown }> {
    const request = ContainerStatusRequest.create({ containerId, verbose: true });
    const { info } = await this.berthd.call(runtime.containerStatus, request);
    return JSON.parse(info['info'] ?? '{}') as { pid: number; monitorPid: number; runtimeSpec: unknown };
  }

  /** The status of a container once it has ended. */
  async ended(containerId: string): Promise<ContainerStatus> {
    return await eventually(
      `container ${containerId} ends`,
      async () => {
        const status = await this.status(containerId);
        return status.state === ContainerState.CONTAINER_EXITED ? status : undefined;
      },
      END_TIMEOUT_MS,
    );
  }

  /** What a command in a container writes to stdout; it must succeed. */
  async exec(containerId: string, ...cmd: string[]): Promise<string> {
    const answer = await this.berthd.call(runtime.execSync, { containerId, cmd, timeout: 20n });
    assert.equal(answer.exitCode, 0, `${cmd.join(' ')}: ${Buffer.from(answer.stderr).toString()}`);
    return Buffer.from(answer.stdout).toString().trimEnd();
  }

  /** The exit code and all output of a command that need not succeed. */
  async tryExec(containerId: string, ...cmd: string[]): Promise<{ exitCode: number; text: string }> {
    const { exitCode, stdout, stderr } = await this.berthd.call(runtime.execSync, { containerId, cmd, timeout: 20n });
    return { exitCode, text: Buffer.concat([stdout, stderr]).toString() };
  }
}

/** Reads a log in the CRI's format. Fails on a line that is not of it. */
export function readLog(path: string): LogLine[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, time = '', stream = '', tag = '', text = ''] =
        /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF]) ([^\n]*)$/.exec(line) ?? [];
      assert.notEqual(time, '', `not a line of a CRI log: ${line}`);
      return { timeMs: Date.parse(time), stream, tag, text };
    });
}

/** Asks again and again until there is an answer; for what announces itself by nothing else. */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined> | T | undefined,
  timeoutMs = 10_000,
): Promise<T> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    assert.ok(performance.now() < giveUpAt, `not within ${timeoutMs} ms: ${what}`);
    await delay(10);
  }
}
