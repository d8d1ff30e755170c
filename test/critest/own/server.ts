import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { status } from '@grpc/grpc-js';

import {
  CgroupDriver,
  ContainerStatusRequest,
  type CreateContainerRequest,
  ImageServiceService as images,
  ListPodSandboxRequest,
  NamespaceMode,
  type PodSandboxConfig,
  PullImageRequest,
  RuntimeConfigRequest,
  RuntimeServiceService as runtime,
} from '../../../proto/gen/cri/api.ts';
import { CriConnection } from '../../harness/cri-connection.ts';
import { type ContainerFields, CriLab } from '../../harness/cri-lab.ts';

/** What the runner hands to each file of facts, as JSON in the environment. */
export interface ServerFacts {
  readonly endpoint: string;
  /** References of the images, all of them to be pulled. */
  readonly busybox: string;
  /** The same image under another name. */
  readonly again: string;
  /** An image with a user, an entrypoint, a command, a working directory, a stop signal. */
  readonly rich: string;
  readonly handler: string;
}

/** The name of the variable. */
export const SERVER_VARIABLE = 'BERTH_CONFORMANCE';
const NAMESPACE = 'berth-conformance';

/** The CRI server that facts are tried on: any, so nothing here knows what it is. */
export class Server extends CriLab implements AsyncDisposable {
  readonly connection: CriConnection;
  readonly facts: ServerFacts;
  readonly #logs: string;
  readonly #configs = new Map<string, PodSandboxConfig>();

  private constructor(connection: CriConnection, facts: ServerFacts, cgroupParent: string, logs: string) {
    super(connection, { image: facts.busybox, logs, cgroupParent, namespace: NAMESPACE });
    this.connection = connection;
    this.facts = facts;
    this.handler = facts.handler;
    this.#logs = logs;
  }

  /** Connects, and pulls the image that pods are made of. */
  static async connect(): Promise<Server> {
    const facts = JSON.parse(process.env[SERVER_VARIABLE] ?? '{}') as ServerFacts;
    assert.ok(facts.endpoint, 'run npm run conformance');
    const connection = new CriConnection(facts.endpoint);
    const parent = await cgroupParentOf(connection);
    const server = new Server(connection, facts, parent, mkdtempSync(join(tmpdir(), 'berth-facts-')));
    try {
      await server.pull(facts.busybox);
    } catch (err) {
      server.#close();
      throw err;
    }
    return server;
  }

  override async runPod(config: PodSandboxConfig = this.podConfig()): Promise<string> {
    const id = await super.runPod(config);
    this.#configs.set(id, config);
    return id;
  }

  /** As the kubelet sends it: never without these messages, which some servers take for granted. */
  override containerRequest(podSandboxId: string, fields: ContainerFields): CreateContainerRequest {
    const linux = { resources: {}, ...fields.linux };
    const securityContext = { namespaceOptions: { pid: NamespaceMode.CONTAINER }, ...fields.linux?.securityContext };
    const request = super.containerRequest(podSandboxId, { ...fields, linux: { ...linux, securityContext } });
    return { ...request, sandboxConfig: this.#configs.get(podSandboxId) };
  }

  async pull(image: string): Promise<string> {
    const request = PullImageRequest.create({ image: { image } });
    return (await this.connection.call(images.pullImage, request)).imageRef;
  }

  /** Facts of a verbose status that all servers give. */
  async pidOf(containerId: string): Promise<number> {
    const request = ContainerStatusRequest.create({ containerId, verbose: true });
    const { info } = await this.connection.call(runtime.containerStatus, request);
    return (JSON.parse(info['info'] ?? '{}') as { pid: number }).pid;
  }

  /** Removes all pods of the facts. */
  async removeAll(): Promise<void> {
    const { items } = await this.connection.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    const own = items.filter(({ metadata }) => metadata?.namespace === NAMESPACE);
    await Promise.all(own.map(({ id }) => this.removePod(id)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.removeAll();
    this.#close();
  }

  #close(): void {
    this.connection.close();
    rmSync(this.#logs, { recursive: true, force: true });
  }
}

/** A parent of pods as the kubelet names it to a server with that cgroup driver. Servers that tell of none have cgroupfs. */
async function cgroupParentOf(connection: CriConnection): Promise<string> {
  try {
    const { linux } = await connection.call(runtime.runtimeConfig, RuntimeConfigRequest.create());
    // In the name of a slice a dash stands for a slice around it.
    return linux?.cgroupDriver === CgroupDriver.SYSTEMD ? `/${NAMESPACE.replace('-', '')}.slice` : `/${NAMESPACE}`;
  } catch (err) {
    // RuntimeConfig came with Kubernetes 1.28.
    if (err instanceof Error && 'code' in err && err.code === status.UNIMPLEMENTED) return `/${NAMESPACE}`;
    connection.close();
    throw err;
  }
}

/** A command that serves the page `page` on port 8080. */
export const WEB_SERVER: readonly string[] = [
  '/bin/sh',
  '-c',
  'mkdir /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www',
];
