import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { makeCertificate } from './certificates.ts';

/** An object of the API, as far as the server looks into it. */
export interface ApiObject {
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly resourceVersion?: string };
  readonly [key: string]: unknown;
}

interface Change {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly object: ApiObject;
  readonly version: number;
}

interface Watcher {
  readonly path: string;
  readonly name: string | undefined;
  readonly wantsBookmarks: boolean;
  readonly response: ServerResponse;
}

/** A request that has come in. */
export interface ApiRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
}

/**
 * A stand-in for an API server, as far as lists and watches go (Kubernetes API concepts, "Efficient detection of
 * changes"): one resource version for all objects, watches that begin after a version, bookmarks, 410 Gone for versions
 * that are forgotten, and bearer tokens.
 */
export class FakeApiServer implements AsyncDisposable {
  /** All requests, in their order. */
  readonly requests: ApiRequest[] = [];
  /** By path and name: what POST and PATCH have made. */
  readonly created: ApiObject[] = [];
  /** Answers with this status in place of anything else while it is set. */
  failWith: number | undefined;
  token = 'secret';
  readonly #server: Server;
  readonly #authority: string;
  readonly #objects = new Map<string, ApiObject>();
  readonly #watchers = new Set<Watcher>();
  readonly #waiting = new Set<() => void>();
  #changes: Change[] = [];
  #version = 100;
  /** Watches from before this version are Gone. */
  #oldest = 0;

  constructor() {
    const dir = mkdtempSync(join(tmpdir(), 'berth-api-'));
    const { cert, key } = makeCertificate(dir, 'api');
    const tls = { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') };
    rmSync(dir, { recursive: true });
    this.#authority = Buffer.from(tls.cert).toString('base64');
    this.#server = createServer(tls, (request, response) => {
      void this.#answer(request, response).catch((err: unknown) => response.destroy(err as Error));
    });
  }

  async listen(port = 0): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject).listen(port, '127.0.0.1', resolve);
    await promise;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** A kubeconfig that leads here. */
  kubeconfig(token = this.token): string {
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'here',
          cluster: { server: `https://127.0.0.1:${this.port}`, 'certificate-authority-data': this.#authority },
        },
      ],
      users: [{ name: 'node', user: { token } }],
      contexts: [{ name: 'node@here', context: { cluster: 'here', user: 'node' } }],
      'current-context': 'node@here',
    });
  }

  /** Adds an object to a collection such as /api/v1/nodes, or replaces it. */
  put(path: string, object: ApiObject): void {
    this.#version += 1;
    const key = `${path}/${object.metadata.name}`;
    const type = this.#objects.has(key) ? 'MODIFIED' : 'ADDED';
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.#version) } };
    this.#objects.set(key, stored);
    this.#changed(path, { type, object: stored, version: this.#version });
  }

  /** Takes an object away. */
  remove(path: string, name: string): void {
    const key = `${path}/${name}`;
    const object = this.#objects.get(key);
    if (!object) throw new Error(`${key} is not there`);
    this.#version += 1;
    this.#objects.delete(key);
    const last = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.#version) } };
    this.#changed(path, { type: 'DELETED', object: last, version: this.#version });
  }

  /** Tells watchers how far they are: their objects have not changed, other objects have. */
  bookmark(): void {
    this.#version += 1;
    const metadata = { name: '', resourceVersion: String(this.#version) };
    for (const watcher of this.#watchers)
      if (watcher.wantsBookmarks) send(watcher.response, { type: 'BOOKMARK', object: { kind: 'Node', metadata } });
  }

  /** Forgets all changes up to now, as etcd's compaction does: watches that begin earlier are Gone. */
  compact(): void {
    this.#oldest = this.#version;
    this.#changes = [];
  }

  /** Ends all watches, as an API server does after a while. */
  endWatches(): void {
    for (const { response } of this.#watchers) response.end();
  }

  /** Cuts all connections, as when an API server dies. */
  cut(): void {
    this.#server.closeAllConnections();
  }

  get watches(): number {
    return this.#watchers.size;
  }

  /** Resolves when something is so, asked for again with each request. */
  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      await promise;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    await promise;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const [method, path] = [request.method ?? '', url.pathname];
    this.requests.push({ method, path, query: url.searchParams });
    const body = await readBody(request);
    if (this.failWith !== undefined) refuse(response, this.failWith, 'the server is in trouble');
    else if (request.headers.authorization !== `Bearer ${this.token}`) refuse(response, 401, 'Unauthorized');
    else if (method === 'GET' && url.searchParams.get('watch') === 'true') this.#watch(url, response);
    else if (method === 'GET') this.#list(url, response);
    else if (method === 'POST') this.#create(path, body as ApiObject, response);
    else if (method === 'PATCH') this.#patch(path, body as Record<string, unknown>, response);
    else refuse(response, 405, 'not allowed');
    this.#wake();
  }

  #list(url: URL, response: ServerResponse): void {
    const items = [...this.#objects]
      .filter(([key]) => key.startsWith(`${url.pathname}/`))
      .map(([, object]) => object)
      .filter((object) => matches(nameIn(url), object));
    answer(response, 200, { kind: 'List', metadata: { resourceVersion: String(this.#version) }, items });
  }

  #watch(url: URL, response: ServerResponse): void {
    const since = Number(url.searchParams.get('resourceVersion') ?? '0');
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    if (since < this.#oldest) {
      const status = { kind: 'Status', code: 410, reason: 'Expired', message: `too old resource version: ${since}` };
      response.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`);
      return;
    }
    const wantsBookmarks = url.searchParams.get('allowWatchBookmarks') === 'true';
    const watcher = { path: url.pathname, name: nameIn(url), wantsBookmarks, response };
    for (const change of this.#changes)
      if (change.version > since && isOf(url.pathname, change.object)) tellChange(watcher, change);
    this.#watchers.add(watcher);
    response.on('close', () => {
      this.#watchers.delete(watcher);
      this.#wake();
    });
  }

  #create(path: string, object: ApiObject, response: ServerResponse): void {
    this.created.push({ ...object, path });
    answer(response, 201, object);
  }

  #patch(path: string, patch: Record<string, unknown>, response: ServerResponse): void {
    const index = this.created.findIndex((object) => `${String(object['path'])}/${object.metadata.name}` === path);
    const before = this.created[index];
    if (!before) {
      refuse(response, 404, 'not found');
      return;
    }
    const after = { ...before, ...patch, metadata: before.metadata };
    this.created[index] = after;
    answer(response, 200, after);
  }

  #changed(path: string, change: Change): void {
    const kept = { ...change, object: { ...change.object, [COLLECTION]: path } };
    this.#changes.push(kept);
    for (const watcher of this.#watchers) if (watcher.path === path) tellChange(watcher, kept);
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

/** Where a change belongs; JSON leaves symbols out. */
const COLLECTION = Symbol('collection');

function isOf(path: string, object: ApiObject): boolean {
  return Reflect.get(object, COLLECTION) === path;
}

function tellChange({ name, response }: Watcher, { type, object }: Change): void {
  if (matches(name, object)) send(response, { type, object });
}

function nameIn(url: URL): string | undefined {
  return /^metadata\.name=(.+)$/.exec(url.searchParams.get('fieldSelector') ?? '')?.[1];
}

function matches(name: string | undefined, object: ApiObject): boolean {
  return name === undefined || object.metadata.name === name;
}

function send(response: ServerResponse, value: unknown): void {
  response.write(`${JSON.stringify(value)}\n`);
}

function answer(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

function refuse(response: ServerResponse, code: number, message: string): void {
  answer(response, code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, message });
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  return text === '' ? undefined : (JSON.parse(text) as unknown);
}
