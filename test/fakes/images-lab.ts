import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { systemClock } from '../../src/base/clock.ts';
import { type BerthError, describe, type ErrorKind, isKind } from '../../src/base/errors.ts';
import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { Images, type ImagesDeps } from '../../src/image/images.ts';
import { RegistryClient } from '../../src/image/registry-client.ts';
import { FakeMounts } from './image-mounts.ts';
import { MemoryImageStore, MemoryLayers } from './layer-folders.ts';
import { FakeRegistry } from './registry.ts';

/** The image room over a registry of its own, with layers and records in memory. */
export class ImagesLab {
  registry: FakeRegistry;
  readonly root: string;
  readonly layers = new MemoryLayers();
  readonly store = new MemoryImageStore();
  readonly mounts = new FakeMounts();
  /** The containers that use each image. */
  users: string[] = [];
  /** Outcome and bytes of each pull, as the meter was told. */
  readonly pulls: [string, number][] = [];
  /** Why pulls failed, as the meter was told. */
  readonly reasons: string[] = [];
  images: Images;

  private constructor(registry: FakeRegistry, root: string) {
    this.registry = registry;
    this.root = root;
    this.images = this.build();
  }

  static async open(): Promise<ImagesLab> {
    const lab = new ImagesLab(await FakeRegistry.start(), await mkdtemp(join(tmpdir(), 'berth-images-')));
    await lab.images.start();
    return lab;
  }

  async close(): Promise<void> {
    await this.images.close();
    await this.registry.close();
    await rm(this.root, { recursive: true });
  }

  /** Another facade over the same folder, as after a restart. */
  build(
    more: Partial<ImagesDeps> = {},
    pinnedImages: readonly string[] = [],
    settings: Partial<ImagesDeps['settings']> = {},
  ): Images {
    const { root, store, layers, mounts } = this;
    return new Images({
      root,
      settings: {
        registriesConf: join(root, 'registries.conf'),
        registriesConfDir: '',
        shortNameAliases: '',
        hostsDirs: [],
        certsDirs: [],
        namespacedAuthDir: '',
        signaturePolicy: join(root, 'policy.json'),
        signaturePolicyMayBeMissing: true,
        signaturePolicyDir: '',
        lookasideDir: '',
        authFile: '',
        pinnedImages,
        maxParallelDownloads: 3,
        pullTimeoutMs: 20_000,
        ...settings,
      },
      store,
      layers,
      client: new RegistryClient({
        monotonicMs: () => performance.now(),
        retry: { attempts: 2, firstWaitMs: 1, maxWaitMs: 10 },
      }),
      programs: { run: async () => await Promise.reject(new Error('no programs here')) },
      readArchive: async () => [],
      writeArchive: async function* () {},
      usersOf: () => this.users,
      mounts,
      log: silentLogger,
      meter: {
        ...silentMeter,
        pull: (outcome, bytes) => void this.pulls.push([outcome, bytes]),
        pullFailed: (reason) => void this.reasons.push(reason),
      },
      clock: systemClock,
      platform: { os: 'linux', architecture: 'amd64', variant: '' },
      ...more,
    });
  }

  /** The whole name of what is in the registry under `rest`. */
  name(rest: string): string {
    return `${this.registry.host}/${rest}`;
  }

  async inFlightFiles(): Promise<string[]> {
    return await readdir(join(this.root, 'image/ingest'));
  }
}

/** Checks kind and words of a failure. */
export async function rejectsWith(work: Promise<unknown>, kind: ErrorKind, words: RegExp): Promise<void> {
  await assert.rejects(work, (err: unknown) => {
    assert.ok(isKind(err, kind), `${kind} expected: ${(err as BerthError).kind} ${describe(err)}`);
    assert.match(describe(err), words);
    return true;
  });
}
