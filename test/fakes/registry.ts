/** A registry in memory that can misbehave, for unit tests; the real one for integration tests is in images.ts. */

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';

/** A document or blob of the fake. */
export interface FakeBlob {
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** An image to put into the fake. */
export interface FakeImage {
  readonly manifest: FakeBlob;
  readonly config: FakeBlob;
  readonly layers: readonly FakeBlob[];
  readonly diffIds: readonly string[];
}

/** One request that the fake has seen. */
export interface SeenRequest {
  readonly method: string;
  readonly url: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

/** Gets a request first; returns true when it has answered it, well or badly. */
export type Misbehaviour = (req: IncomingMessage, res: ServerResponse) => boolean;

/** How the fake wants to be asked. */
export type FakeAuth =
  | { readonly kind: 'none' }
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  | {
      readonly kind: 'bearer';
      /** Checks the token request; returns the token, or undefined to refuse. */
      readonly issue: (request: {
        query: URLSearchParams;
        form: URLSearchParams;
        authorization: string;
      }) => string | undefined;
      readonly expiresInS?: number;
    };

/** Bytes with their digest and media type. */
export function fakeBlob(bytes: Buffer | object, mediaType: string): FakeBlob {
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(JSON.stringify(bytes));
  const digest = `sha256:${createHash('sha256').update(buffer).digest('hex')}`;
  return { bytes: buffer, mediaType, digest, size: buffer.length };
}

/** An image whose layers are gzipped texts: enough for whoever does not unpack them. */
export function fakeImage(
  texts: readonly string[],
  more: { architecture?: string; config?: object; manifest?: object; layerType?: string } = {},
): FakeImage {
  const diffIds = texts.map((text) => fakeBlob(Buffer.from(text), '').digest);
  const layerType = more.layerType ?? 'application/vnd.oci.image.layer.v1.tar+gzip';
  const layers = texts.map((text) => fakeBlob(gzipSync(text), layerType));
  const config = fakeBlob(
    {
      os: 'linux',
      architecture: more.architecture ?? 'amd64',
      config: { Cmd: ['sh'], User: '1000', ...more.config },
      rootfs: { type: 'layers', diff_ids: diffIds },
    },
    'application/vnd.oci.image.config.v1+json',
  );
  const manifestType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = fakeBlob(
    {
      schemaVersion: 2,
      mediaType: manifestType,
      config: describeBlob(config),
      layers: layers.map(describeBlob),
      ...more.manifest,
    },
    manifestType,
  );
  return { manifest, config, layers, diffIds };
}

/** One file of an artifact; without a name it has no annotation. */
export interface FakeArtifactFile {
  readonly name?: string;
  readonly bytes: Buffer;
  readonly mediaType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** An OCI artifact as oras pushes it: an empty config, and each file a blob as it is. */
export function fakeArtifact(
  files: readonly FakeArtifactFile[],
  more: { readonly artifactType?: string; readonly manifest?: object } = {},
): FakeImage {
  const config = fakeBlob({}, 'application/vnd.oci.empty.v1+json');
  const layers = files.map(({ bytes, mediaType }) => fakeBlob(bytes, mediaType ?? 'application/octet-stream'));
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const document = {
    schemaVersion: 2,
    mediaType,
    artifactType: more.artifactType ?? 'application/vnd.example.model',
    config: describeBlob(config),
    layers: files.map(({ name, annotations }, index) => {
      const title = name === undefined ? {} : { 'org.opencontainers.image.title': name };
      return { ...describeBlob(layers[index] ?? config), annotations: { ...title, ...annotations } };
    }),
    ...more.manifest,
  };
  return { manifest: fakeBlob(document, mediaType), config, layers, diffIds: [] };
}

/** An index of documents with their platforms (`linux/arm/v7`; empty for none). */
export function fakeIndex(entries: readonly { readonly blob: FakeBlob; readonly platform: string }[]): FakeBlob {
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const manifests = entries.map(({ blob, platform }) => {
    const [os, architecture, variant] = platform.split('/');
    return { ...describeBlob(blob), ...(platform === '' ? {} : { platform: { os, architecture, variant } }) };
  });
  return fakeBlob({ schemaVersion: 2, mediaType, manifests }, mediaType);
}

/** The descriptor of a blob. */
export function describeBlob(blob: FakeBlob): { mediaType: string; digest: string; size: number } {
  return { mediaType: blob.mediaType, digest: blob.digest, size: blob.size };
}

/** The registry. Made by `start`; closed by `await using` or `close`. */
export class FakeRegistry implements AsyncDisposable {
  readonly #server: Server;
  readonly #manifests = new Map<string, FakeBlob>();
  readonly #blobs = new Map<string, FakeBlob>();
  readonly seen: SeenRequest[] = [];
  auth: FakeAuth = { kind: 'none' };
  misbehave: Misbehaviour | undefined;
  /** Whether it serves parts of blobs, as most registries do. */
  knowsRanges = true;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Listens on a free port of 127.0.0.1. */
  static async start(): Promise<FakeRegistry> {
    const server = createServer();
    const registry = new FakeRegistry(server);
    server.on('request', (req: IncomingMessage, res: ServerResponse) => void registry.#serve(req, res));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  /** `127.0.0.1:<port>`. */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Puts a document under a name (`team/app`), by its digest and by a tag. */
  addDocument(repository: string, document: FakeBlob, tag?: string): void {
    this.#manifests.set(`${repository}/${document.digest}`, document);
    if (tag !== undefined) this.#manifests.set(`${repository}/${tag}`, document);
  }

  /** Puts a whole image under a name. */
  add(repository: string, image: FakeImage, tag?: string): void {
    this.addDocument(repository, image.manifest, tag);
    for (const blob of [image.config, ...image.layers]) this.#blobs.set(blob.digest, blob);
  }

  /** The paths asked for so far, without the leading /v2. */
  paths(): string[] {
    return this.seen.map(({ url }) => url.replace(/^\/v2/, ''));
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const url = new URL(req.url ?? '/', `http://${this.host}`);
    const { authorization, range } = req.headers;
    this.seen.push({ method: req.method ?? '', url: req.url ?? '', authorization, range });
    if (this.misbehave?.(req, res)) return;
    if (url.pathname === '/token') return await this.#issue(url, req, res);
    if (!this.#isAllowed(req)) return this.#challenge(res);
    const match = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname);
    const [, repository = '', kind, name = ''] = match ?? [];
    const found = kind === 'manifests' ? this.#manifests.get(`${repository}/${name}`) : this.#blobs.get(name);
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    if (found && kind === 'manifests') res.setHeader('docker-content-digest', found.digest);
    if (found && from > 0 && this.knowsRanges) answerRange(res, found.bytes, from);
    else if (found)
      res.writeHead(200, { 'content-type': found.mediaType, 'content-length': found.size }).end(found.bytes);
    else answerError(res, 404, kind === 'manifests' ? 'MANIFEST_UNKNOWN' : 'BLOB_UNKNOWN');
  }

  #isAllowed(req: IncomingMessage): boolean {
    const given = req.headers.authorization ?? '';
    if (this.auth.kind === 'none') return true;
    if (this.auth.kind === 'bearer') return given.startsWith('Bearer good');
    const pair = Buffer.from(`${this.auth.username}:${this.auth.password}`).toString('base64');
    return given === `Basic ${pair}`;
  }

  #challenge(res: ServerResponse): void {
    const realm = `Bearer realm="http://${this.host}/token",service="fake registry",scope="repository:x:pull"`;
    res.setHeader('www-authenticate', this.auth.kind === 'basic' ? 'Basic realm="fake"' : realm);
    answerError(res, 401, 'UNAUTHORIZED');
  }

  async #issue(url: URL, req: IncomingMessage, res: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of req.setEncoding('utf8') as AsyncIterable<string>) body += chunk;
    if (this.auth.kind !== 'bearer') return answerError(res, 404, 'UNSUPPORTED');
    const authorization = req.headers.authorization ?? '';
    const token = this.auth.issue({ query: url.searchParams, form: new URLSearchParams(body), authorization });
    if (token === undefined) return answerError(res, 401, 'DENIED');
    res.setHeader('content-type', 'application/json');
    res.end(JSON.stringify({ token, expires_in: this.auth.expiresInS ?? 300 }));
  }
}

function answerRange(res: ServerResponse, bytes: Buffer, from: number): void {
  const part = bytes.subarray(from);
  const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
  res.writeHead(206, { 'content-range': range, 'content-length': part.length }).end(part);
}

/** Answers with a status and an error document of the distribution spec. */
export function answerError(res: ServerResponse, status: number, code: string): void {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify({ errors: [{ code, message: 'as the test wants it' }] }));
}
