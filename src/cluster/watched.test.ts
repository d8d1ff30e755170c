import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CoreV1Api, KubeConfig, type V1Node } from '@kubernetes/client-node';

import { FakeApiServer } from '../../test/fakes/api-server.ts';
import { hasOpenssl } from '../../test/fakes/certificates.ts';
import { Watched } from './watched.ts';

const NODES = '/api/v1/nodes';
const node = (podCIDR: string, name = 'here') => ({ metadata: { name }, spec: { podCIDR } });

/** One watch of the node `here`, and what it has told. */
class Scene implements AsyncDisposable {
  readonly server = new FakeApiServer();
  readonly problems: string[] = [];
  unauthorized = 0;
  #watched: Watched<V1Node> | undefined;
  readonly #seen: string[] = [];
  #wake = Promise.withResolvers<void>();

  async open(quietMs?: number): Promise<this> {
    await this.server.listen();
    const config = new KubeConfig();
    config.loadFromString(this.server.kubeconfig());
    const core = config.makeApiClient(CoreV1Api);
    const fieldSelector = 'metadata.name=here';
    this.#watched = new Watched<V1Node>({
      config,
      path: NODES,
      fieldSelector,
      list: async () => await core.listNode({ fieldSelector }),
      onChange: (nodes) => {
        this.#seen.push(nodes.map(({ spec }) => spec?.podCIDR ?? '-').join());
        this.#told();
      },
      onUnauthorized: () => {
        this.unauthorized += 1;
      },
      onProblem: (problem) => {
        this.problems.push(problem);
        this.#told();
      },
      pauses: { firstMs: 1, longestMs: 20 },
      ...(quietMs === undefined ? {} : { quietMs }),
    });
    return this;
  }

  async start(): Promise<void> {
    await this.#watched?.start();
  }

  /** Resolves when this is the last that was seen. */
  async sees(nodes: string): Promise<void> {
    while (this.#seen.at(-1) !== nodes) await this.#wake.promise;
  }

  async hasProblem(like: RegExp): Promise<void> {
    while (!this.problems.some((problem) => like.test(problem))) await this.#wake.promise;
  }

  get watches(): number {
    return this.server.requests.filter(({ query }) => query.has('watch')).length;
  }

  get lists(): number {
    return this.server.requests.filter(({ query }) => !query.has('watch')).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watched?.close();
    await this.server[Symbol.asyncDispose]();
  }

  #told(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }
}

const options = { timeout: 60_000, skip: hasOpenssl() ? false : 'openssl is not installed' };

test('objects are listed once and then watched, others pass by', options, async () => {
  await using scene = await new Scene().open();
  scene.server.put(NODES, node('10.1.0.0/24'));
  await scene.start();
  await scene.sees('10.1.0.0/24');
  await scene.server.until(() => scene.server.watches === 1);
  scene.server.put(NODES, node('10.9.0.0/24', 'elsewhere'));
  scene.server.put(NODES, node('10.2.0.0/24'));
  await scene.sees('10.2.0.0/24');
  scene.server.remove(NODES, 'here');
  await scene.sees('');
  assert.equal(scene.lists, 1);
});

test('a watch that ends goes on where it was, also after a bookmark', options, async () => {
  await using scene = await new Scene().open();
  scene.server.put(NODES, node('10.1.0.0/24'));
  await scene.start();
  await scene.server.until(() => scene.server.watches === 1);
  scene.server.bookmark();
  scene.server.put(NODES, node('10.2.0.0/24'));
  await scene.sees('10.2.0.0/24');
  scene.server.endWatches();
  await scene.server.until(() => scene.server.watches === 0);
  // It changes while nobody watches.
  scene.server.put(NODES, node('10.3.0.0/24'));
  await scene.sees('10.3.0.0/24');
  assert.equal(scene.lists, 1, 'the watch was taken up again without another list');
});

test('what the server has forgotten is listed anew', options, async () => {
  await using scene = await new Scene().open();
  scene.server.put(NODES, node('10.1.0.0/24'));
  await scene.start();
  await scene.server.until(() => scene.server.watches === 1);
  scene.server.endWatches();
  await scene.server.until(() => scene.server.watches === 0);
  scene.server.put(NODES, node('10.4.0.0/24'));
  scene.server.compact();
  await scene.sees('10.4.0.0/24');
  assert.equal(scene.lists, 2);
});

test('a server that is away or in trouble is asked again until it answers', options, async () => {
  await using scene = await new Scene().open();
  scene.server.put(NODES, node('10.1.0.0/24'));
  scene.server.failWith = 503;
  await scene.start();
  await scene.hasProblem(/answers 503: the server is in trouble/);
  scene.server.failWith = undefined;
  await scene.sees('10.1.0.0/24');
  assert.equal(scene.problems.at(-1), '', 'it is told that all is well again');
  await scene.server.until(() => scene.server.watches === 1);
  scene.server.failWith = 500;
  scene.server.cut();
  await scene.hasProblem(/./);
  scene.server.failWith = undefined;
  scene.server.put(NODES, node('10.5.0.0/24'));
  await scene.sees('10.5.0.0/24');
});

test('a watch of which nothing is heard for long is taken up anew, and no sooner', options, async () => {
  const quietMs = 500;
  await using scene = await new Scene().open(quietMs);
  scene.server.put(NODES, node('10.1.0.0/24'));
  const beganMs = performance.now();
  await scene.start();
  await scene.server.until(() => scene.watches === 2);
  const tookMs = performance.now() - beganMs;
  assert.ok(tookMs > quietMs * 0.8, `after ${tookMs} ms`);
  scene.server.put(NODES, node('10.2.0.0/24'));
  await scene.sees('10.2.0.0/24');
  assert.deepEqual([scene.lists, scene.problems], [1, []]);
});

test('credentials that are not taken are told', options, async () => {
  await using scene = await new Scene().open();
  scene.server.token = 'another';
  await scene.start();
  await scene.hasProblem(/answers 401/);
  assert.ok(scene.unauthorized > 0);
});
