/**
 * As much of a Kubernetes API server as a kubelet needs: objects in memory, lists, watches, patches, over plain HTTP on
 * loopback. It speaks JSON only, admits everybody, and fills in no defaults: who makes a pod gives all fields that count.
 */

import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';

import { mergePatch } from './merge-patch.ts';

/** An object of the API. */
export interface ApiObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: ObjectMeta;
  readonly spec?: Readonly<Record<string, unknown>>;
  readonly status?: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

interface ObjectMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly generation?: number;
  readonly [field: string]: unknown;
}

/** Where an object is: `apis/node.k8s.io/v1`, `runtimeclasses`. */
interface Place {
  readonly version: string;
  readonly resource: string;
  readonly name: string | undefined;
}

interface Answer {
  readonly status: number;
  readonly body: object;
}

interface Watch {
  readonly resource: string;
  readonly name: string | undefined;
  send(type: string, object: ApiObject): void;
}

/** What is not a plural with an `s` and a capital in front. */
const KINDS: Readonly<Record<string, string>> = {
  runtimeclasses: 'RuntimeClass',
  configmaps: 'ConfigMap',
  csinodes: 'CSINode',
  csidrivers: 'CSIDriver',
};
const PATH = /^\/(api\/v1|apis\/[^/]+\/[^/]+)(?:\/namespaces\/[^/]+)?\/([a-z]+)(?:\/([^/]+))?(?:\/([a-z]+))?$/;

/** Objects, and the server that a kubelet finds them in. */
export class TestApiServer implements AsyncDisposable {
  readonly #objects = new Map<string, Map<string, ApiObject>>();
  readonly #watches = new Set<Watch>();
  readonly #server: Server;
  #version = 1;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((err: unknown) =>
        send(response, refusal(500, 'InternalError', String(err))),
      );
    });
  }

  static async start(): Promise<TestApiServer> {
    const api = new TestApiServer();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    api.#server.once('error', reject).listen(0, '127.0.0.1', () => resolve());
    await promise;
    return api;
  }

  get url(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  }

  /** A kubeconfig that leads here. */
  get kubeconfig(): object {
    const context = { cluster: 'test', user: 'test' };
    return {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster: { server: this.url } }],
      users: [{ name: 'test', user: {} }],
      contexts: [{ name: 'test', context }],
      'current-context': 'test',
    };
  }

  find(resource: string, name: string): ApiObject | undefined {
    return this.#of(resource).get(name);
  }

  list(resource: string): readonly ApiObject[] {
    return [...this.#of(resource).values()];
  }

  /** Makes an object, or puts another one in its place. */
  put(resource: string, object: ApiObject, version = 'api/v1'): ApiObject {
    const { name } = object.metadata;
    const before = this.find(resource, name);
    const metadata = {
      creationTimestamp: new Date().toISOString().replace(/\.\d+/, ''),
      uid: randomUUID(),
      ...before?.metadata,
      ...object.metadata,
      resourceVersion: String(++this.#version),
    };
    const stored = { ...object, apiVersion: version.replace(/^apis?\//, ''), kind: kindOf(resource), metadata };
    this.#of(resource).set(name, stored);
    this.#tell(resource, before ? 'MODIFIED' : 'ADDED', stored);
    return stored;
  }

  /** Changes what the object is to be, as a user does who edits it. */
  edit(resource: string, name: string, patch: object): ApiObject {
    const before = this.find(resource, name);
    if (!before) throw new Error(`no ${resource} ${name}`);
    const changed = mergePatch(before, patch) as ApiObject;
    const generation = (before.metadata.generation ?? 1) + 1;
    return this.put(resource, { ...changed, metadata: { ...changed.metadata, generation } });
  }

  /** Wishes a pod's end: the kubelet removes the object when it has ended. */
  remove(name: string, graceSeconds: number): void {
    const pod = this.find('pods', name);
    if (!pod || pod.metadata['deletionTimestamp'] !== undefined) return;
    const deletionTimestamp = new Date(Date.now() + graceSeconds * 1000).toISOString().replace(/\.\d+/, '');
    this.edit('pods', name, { metadata: { deletionTimestamp, deletionGracePeriodSeconds: graceSeconds } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.url);
    const [, version, resource, name] = PATH.exec(url.pathname) ?? [];
    if (version === undefined || resource === undefined) {
      send(response, refusal(404, 'NotFound', url.pathname));
      return;
    }
    const isWatch = ['true', '1'].includes(url.searchParams.get('watch') ?? '');
    if (request.method === 'GET' && isWatch) this.#watch({ version, resource, name }, url, response);
    else send(response, await this.#obey({ version, resource, name }, url, request));
  }

  async #obey(place: Place, url: URL, request: IncomingMessage): Promise<Answer> {
    const { resource, name, version } = place;
    if (request.method === 'GET' && name === undefined) return this.#list(place, url);
    const found = name === undefined ? undefined : this.find(resource, name);
    const body = (await json(request).catch(() => ({}))) as ApiObject;
    if (request.method === 'POST' && name === undefined) {
      if (this.find(resource, body.metadata.name)) return refusal(409, 'AlreadyExists', body.metadata.name);
      return { status: 201, body: this.put(resource, body, version) };
    }
    if (!found) return refusal(404, 'NotFound', `${resource} "${name}" not found`);
    if (request.method === 'GET') return { status: 200, body: found };
    if (request.method === 'DELETE') return this.#delete(resource, found);
    const changed = request.method === 'PATCH' ? (mergePatch(found, body) as ApiObject) : body;
    return { status: 200, body: this.put(resource, changed, version) };
  }

  #delete(resource: string, found: ApiObject): Answer {
    this.#of(resource).delete(found.metadata.name);
    const metadata = { ...found.metadata, resourceVersion: String(++this.#version) };
    this.#tell(resource, 'DELETED', { ...found, metadata });
    return { status: 200, body: { kind: 'Status', apiVersion: 'v1', status: 'Success' } };
  }

  #wanted(resource: string, url: URL): { readonly items: readonly ApiObject[]; readonly only: string | undefined } {
    const only = /^metadata\.name=(.+)$/.exec(url.searchParams.get('fieldSelector') ?? '')?.[1];
    return { only, items: this.list(resource).filter(({ metadata }) => only === undefined || metadata.name === only) };
  }

  #list({ version, resource }: Place, url: URL): Answer {
    const { items } = this.#wanted(resource, url);
    const metadata = { resourceVersion: String(this.#version) };
    const body = { apiVersion: version.replace(/^apis?\//, ''), kind: `${kindOf(resource)}List`, metadata, items };
    return { status: 200, body };
  }

  /** What changes from now on; with `sendInitialEvents` first what is there. */
  #watch({ version, resource }: Place, url: URL, response: ServerResponse): void {
    const { items, only } = this.#wanted(resource, url);
    response.writeHead(200, { 'content-type': 'application/json' });
    const tell = (type: string, object: object): void => void response.write(`${JSON.stringify({ type, object })}\n`);
    const since = Number(url.searchParams.get('resourceVersion') ?? 0);
    if (url.searchParams.get('sendInitialEvents') === 'true') {
      for (const item of items) tell('ADDED', item);
      const annotations = { 'k8s.io/initial-events-end': 'true' };
      const metadata = { resourceVersion: String(this.#version), annotations };
      tell('BOOKMARK', { apiVersion: version.replace(/^apis?\//, ''), kind: kindOf(resource), metadata });
    } else {
      // What has changed between the list and this call.
      for (const item of items) if (Number(item.metadata.resourceVersion) > since) tell('MODIFIED', item);
    }
    response.flushHeaders();
    const watch = { resource, name: only, send: tell };
    this.#watches.add(watch);
    response.once('close', () => this.#watches.delete(watch));
  }

  #tell(resource: string, type: string, object: ApiObject): void {
    for (const watch of this.#watches) {
      if (watch.resource === resource && (watch.name ?? object.metadata.name) === object.metadata.name) {
        watch.send(type, object);
      }
    }
  }

  #of(resource: string): Map<string, ApiObject> {
    const found = this.#objects.get(resource) ?? new Map<string, ApiObject>();
    this.#objects.set(resource, found);
    return found;
  }
}

function kindOf(resource: string): string {
  return KINDS[resource] ?? `${resource[0]?.toUpperCase()}${resource.slice(1, -1)}`;
}

function send(response: ServerResponse, { status, body }: Answer): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

function refusal(status: number, reason: string, message: string): Answer {
  return { status, body: { kind: 'Status', apiVersion: 'v1', status: 'Failure', code: status, reason, message } };
}
