/** The runtime that the suite runs against. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { ListPodSandboxRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { Connection } from '../../src/cli/connection.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { TestContainerd } from '../harness/containerd.ts';
import { MIRRORED, PAUSE_IMAGE } from './images.ts';
import type { Options } from './options.ts';

/** As many as berthd has by default: the suites see what users get. */
const SPARE_NETWORKS = 4;

/** The suite's pods bear it. */
const NAMESPACE = /^cri-test-namespace/;

/** A CRI server, and what the runner knows of it. */
export interface Target extends AsyncDisposable {
  readonly endpoint: string;
  /** Fails when pods have left something in its own folders. */
  assertNoTraces(): Promise<void>;
}

/** Starts what the suite shall run against, with the registry as its mirror, or takes what is there. */
export async function startTarget(
  options: Pick<Options, 'endpoint' | 'containerd' | 'runtime'>,
  mirror: string,
  folder: string,
): Promise<Target> {
  if (options.endpoint !== undefined) return givenTarget(options.endpoint);
  if (options.containerd) return await startContainerd(mirror);
  return await startBerthd(mirror, folder, options.runtime);
}

async function startBerthd(mirror: string, folder: string, handler: string | undefined): Promise<Target> {
  const registries = join(folder, 'registries.conf');
  const entries = MIRRORED.map((host) => `[[registry]]\nlocation = "${host}"\n[[registry.mirror]]\n${plain(mirror)}`);
  writeFileSync(registries, entries.join('\n'));
  const lines = ['[image]', `registries_conf = "${registries}"`];
  if (handler !== undefined) lines.push('[runtime]', `default_runtime = "${handler}"`);
  const berthd = new TestBerthd({ config: lines.join('\n'), spareNetworks: SPARE_NETWORKS });
  try {
    await berthd.start();
  } catch (err) {
    // Its folders go; that it has no database yet is no news.
    await berthd[Symbol.asyncDispose]().catch(() => undefined);
    throw err;
  }
  return {
    endpoint: berthd.endpoint,
    async assertNoTraces() {
      // Networks that it has ready for pods go with it.
      await berthd.end('SIGTERM');
      berthd.assertNoTraces();
      await berthd.start();
    },
    [Symbol.asyncDispose]: () => berthd[Symbol.asyncDispose](),
  };
}

function plain(mirror: string): string {
  return `location = "${mirror}"\ninsecure = true\n`;
}

async function startContainerd(mirror: string): Promise<Target> {
  if (TestContainerd.missing !== undefined) throw new Error(TestContainerd.missing);
  const containerd = new TestContainerd({ pauseImage: PAUSE_IMAGE, mirror, mirrored: MIRRORED });
  const given = givenTarget(containerd.endpoint);
  const dispose = async (): Promise<void> => {
    await given[Symbol.asyncDispose]();
    await containerd[Symbol.asyncDispose]();
  };
  try {
    await containerd.start();
  } catch (err) {
    await containerd[Symbol.asyncDispose]();
    throw err;
  }
  return { ...given, [Symbol.asyncDispose]: dispose };
}

function givenTarget(endpoint: string): Target {
  return { endpoint, assertNoTraces: async () => undefined, [Symbol.asyncDispose]: () => removePods(endpoint) };
}

/** What failed specs left running. */
async function removePods(endpoint: string): Promise<void> {
  const connection = new Connection(endpoint);
  try {
    const { items } = await connection.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    for (const { id, metadata } of items) {
      if (!NAMESPACE.test(metadata?.namespace ?? '')) continue;
      await connection.call(runtime.stopPodSandbox, { podSandboxId: id });
      await connection.call(runtime.removePodSandbox, { podSandboxId: id });
    }
  } finally {
    connection.close();
  }
}
