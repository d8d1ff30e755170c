/** A layer store and snapshots in a folder of their own, on the real disk. */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { readOwnVersion } from '../../src/base/own-version.ts';
import { DiskProcess } from '../../src/image/disk-process.ts';
import { DiskWorkers } from '../../src/image/disk-workers.ts';
import { type LayerRow, type LayerRows, LayerStore } from '../../src/image/layer-store.ts';
import { Snapshots } from '../../src/image/snapshots.ts';
import { defaultTarLimits, type TarLimits } from '../../src/image/tar-reader.ts';
import type { DevicePolicy } from '../../src/image/unpack-layer.ts';
import { Processes } from '../../src/proc/processes.ts';

const never = new AbortController().signal;

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Rows in memory. */
export class MemoryRows implements LayerRows {
  readonly rows = new Map<string, LayerRow>();
  putLayer(layer: LayerRow): void {
    this.rows.set(layer.diffId, layer);
  }
  deleteLayer(diffId: string): void {
    this.rows.delete(diffId);
  }
  allLayers(): LayerRow[] {
    return [...this.rows.values()];
  }
}

export class LayerLab {
  readonly base: string;
  readonly root: string;
  readonly rows = new MemoryRows();
  readonly workers: DiskWorkers;
  layers: LayerStore;
  snapshots: Snapshots;
  /** Of root filesystems, from the next restart on. */
  wantsVolatile = true;
  #blobs = 0;

  readonly #devices: DevicePolicy;

  private constructor(base: string, root: string, limits: TarLimits, devices: DevicePolicy, process?: DiskProcess) {
    this.workers = new DiskWorkers({ threads: 2, process });
    this.base = base;
    this.root = root;
    this.#devices = devices;
    [this.layers, this.snapshots] = this.#build(limits);
  }

  /** Starts one; `name` is the root folder's, beneath a temporary one. */
  static async open(options?: {
    name?: string;
    limits?: Partial<TarLimits>;
    base?: string;
    devices?: DevicePolicy;
    /** Where layers are unpacked; threads of this process if not said. */
    place?: 'threads' | 'process';
  }): Promise<LayerLab> {
    const base = options?.base ?? (await mkdtemp(join(tmpdir(), 'berth-image-lab-')));
    const limits = { ...defaultTarLimits, ...options?.limits };
    const root = join(base, options?.name ?? 'root');
    const processes = new Processes({ log: silentLogger, meter: silentMeter });
    const disk =
      options?.place === 'process'
        ? new DiskProcess({ processes, log: silentLogger, version: readOwnVersion() })
        : undefined;
    const lab = new LayerLab(base, root, limits, options?.devices ?? 'allow', disk);
    await lab.start();
    return lab;
  }

  async start(): Promise<void> {
    await this.layers.start();
    await this.snapshots.start();
  }

  /** Another daemon's life on the same folder. */
  async restart(): Promise<void> {
    await this.layers.close();
    await this.snapshots.close();
    [this.layers, this.snapshots] = this.#build(defaultTarLimits);
    await this.start();
  }

  async close(): Promise<void> {
    for (const id of this.snapshots.all()) await this.snapshots.unmount(id);
    await this.layers.close();
    await this.snapshots.close();
    await this.workers.close();
    await rm(this.base, { recursive: true });
  }

  /** Writes bytes into a blob file. */
  blob(bytes: Buffer): string {
    this.#blobs += 1;
    const path = join(this.base, `blob-${this.#blobs}`);
    writeFileSync(path, bytes);
    return path;
  }

  /** Unpacks a tar; returns its diff id. */
  async unpack(tar: Buffer | { path: string }, signal: AbortSignal = never): Promise<string> {
    const path = Buffer.isBuffer(tar) ? this.blob(tar) : tar.path;
    const diffId = sha256(Buffer.isBuffer(tar) ? tar : readFileSync(path));
    await this.layers.unpack({ path, compression: 'detect' }, diffId, signal);
    return diffId;
  }

  #build(limits: TarLimits): [LayerStore, Snapshots] {
    const { root, rows, workers, wantsVolatile } = this;
    const devices = this.#devices;
    const layers = new LayerStore({ root, rows, workers, limits, devices, log: silentLogger, clock: systemClock });
    return [layers, new Snapshots({ root, layers, workers, wantsVolatile, log: silentLogger })];
  }
}
