import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import type { ServiceError } from '@grpc/grpc-js';

import {
  type ContainerConfig,
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxStatusRequest,
  type PodSandboxStatusResponse,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import type { Method } from './cri-connection.ts';
import { patient } from './patience.ts';

/** Fields of a pod's configuration that a test cares about. */
export type PodFields = NonNullable<Parameters<typeof PodSandboxConfig.create>[0]>;
/** Fields of a container's configuration that a test cares about. */
export type ContainerFields = NonNullable<Parameters<typeof ContainerConfig.create>[0]>;

/** A process that ends by itself is waited for this long. */
const END_TIMEOUT_MS = 60_000;
/** For what takes a moment, on a machine that does much else. */
const EVENTUALLY_MS = 60_000;
const LEAST_ASKED = 20;
const COMMAND_SECONDS = BigInt(patient(60));
const OWN_PID = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };

/** One line of a container's log. */
export interface LogLine {
  readonly timeMs: number;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** Sends requests to a CRI server. */
export interface CriClient {
  call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response>;
  /** The error of a request that must fail. */
  fails<Request, Response>(method: Method<Request, Response>, request: Request): Promise<ServiceError>;
}

/** Where and how a lab's pods are made. */
export interface CriPlaces {
  /** A reference that is pulled or loaded already. */
  readonly image: string;
  /** Folder for the logs of all pods. */
  readonly logs: string;
  readonly cgroupParent: string;
  readonly namespace: string;
}

/** Short words for what tests do with the pods of any CRI server. */
export class CriLab {
  readonly client: CriClient;
  readonly image: string;
  readonly logs: string;
  readonly cgroupParent: string;
  readonly namespace: string;
  /** The handler for pods of this lab; '' is the default. */
  handler = '';
  readonly #run = process.pid;
  #pods = 0;
  #containers = 0;

  constructor(client: CriClient, { image, logs, cgroupParent, namespace }: CriPlaces) {
    this.client = client;
    this.image = image;
    this.logs = logs;
    this.cgroupParent = cgroupParent;
    this.namespace = namespace;
  }

  podConfig(fields: PodFields = {}): PodSandboxConfig {
    this.#pods += 1;
    const name = `pod-${this.#pods}`;
    return PodSandboxConfig.create({
      metadata: { name, namespace: this.namespace, uid: `uid-${this.#pods}-${this.#run}`, attempt: 0 },
      logDirectory: join(this.logs, name),
      ...fields,

      linux: { cgroupParent: this.cgroupParent, securityContext: OWN_PID, ...fields.linux },
    });
  }

  async runPod(config: PodSandboxConfig = this.podConfig()): Promise<string> {
    const request = RunPodSandboxRequest.create({ config, runtimeHandler: this.handler });
    return (await this.client.call(runtime.runPodSandbox, request)).podSandboxId;
  }

  async podStatus(podSandboxId: string, verbose = false): Promise<PodSandboxStatusResponse> {
    return await this.client.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId, verbose }));
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
    await this.client.call(runtime.stopPodSandbox, { podSandboxId });
    await this.client.call(runtime.removePodSandbox, { podSandboxId });
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
    return (await this.client.call(runtime.createContainer, this.containerRequest(podSandboxId, fields))).containerId;
  }

  async start(podSandboxId: string, fields: ContainerFields = {}): Promise<string> {
    const containerId = await this.create(podSandboxId, fields);
    await this.client.call(runtime.startContainer, { containerId });
    return containerId;
  }

  /** Starts a container whose program says `ready` when it is, with its traps set, and waits for that. */
  async startReady(podSandboxId: string, fields: ContainerFields): Promise<string> {
    const containerId = await this.start(podSandboxId, fields);
    const { logPath } = await this.status(containerId);
    await eventually('it is ready', () => readLog(logPath).some(({ text }) => text === 'ready') || undefined);
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
    await this.client.call(runtime.removeContainer, { containerId: status.id });
    rmSync(status.logPath);
    const out = log.filter(({ stream }) => stream === 'stdout');
    return out
      .map(({ tag, text }) => (tag === 'P' ? text : `${text}\n`))
      .join('')
      .trimEnd();
  }

  /** The error with which a container cannot be created. */
  async refused(podSandboxId: string, fields: ContainerFields): Promise<ServiceError> {
    return await this.client.fails(runtime.createContainer, this.containerRequest(podSandboxId, fields));
  }

  async status(containerId: string): Promise<ContainerStatus> {
    const request = ContainerStatusRequest.create({ containerId });
    const { status } = await this.client.call(runtime.containerStatus, request);
    assert.ok(status);
    return status;
  }

  /** Facts of a verbose status. */
  async info(containerId: string): Promise<{ pid: number; monitorPid: number; runtimeSpec: unknown }> {
    const request = ContainerStatusRequest.create({ containerId, verbose: true });
    const { info } = await this.client.call(runtime.containerStatus, request);
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
    const answer = await this.client.call(runtime.execSync, { containerId, cmd, timeout: COMMAND_SECONDS });
    assert.equal(answer.exitCode, 0, `${cmd.join(' ')}: ${Buffer.from(answer.stderr).toString()}`);
    return Buffer.from(answer.stdout).toString().trimEnd();
  }

  /** The exit code and all output of a command that need not succeed. */
  async tryExec(containerId: string, ...cmd: string[]): Promise<{ exitCode: number; text: string }> {
    const { exitCode, stdout, stderr } = await this.client.call(runtime.execSync, {
      containerId,
      cmd,
      timeout: COMMAND_SECONDS,
    });
    return { exitCode, text: Buffer.concat([stdout, stderr]).toString() };
  }
}

/** Reads a log in the CRI's format, as far as its lines are whole. Fails on a line that is not of it. */
export function readLog(path: string): LogLine[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .slice(0, -1)
    .filter((line) => line !== '')
    .map((line) => {
      const [, time = '', stream = '', tag = '', text = ''] =
        /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF]) ([^\n]*)$/.exec(
          line,
        ) ?? [];
      assert.notEqual(time, '', `not a line of a CRI log: ${line}`);
      return { timeMs: Date.parse(time), stream, tag, text };
    });
}

/**
 * Asks again and again until there is an answer; for what announces itself by nothing else. It gives up when the time
 * is over, but not before it has asked some times: a machine that stands still is no reason.
 */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined> | T | undefined,
  timeoutMs = EVENTUALLY_MS,
): Promise<T> {
  const startedMs = performance.now();
  const giveUpAt = startedMs + patient(timeoutMs);
  for (let asked = 1; ; asked += 1) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    const ms = Math.round(performance.now() - startedMs);
    assert.ok(
      asked < LEAST_ASKED || performance.now() < giveUpAt,
      `not within ${ms} ms, asked ${asked} times: ${what}`,
    );
    await delay(patient(10));
  }
}
