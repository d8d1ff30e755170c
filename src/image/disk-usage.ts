import { readMounts } from '../sys/mount.ts';
import type { LayerStore } from './layer-store.ts';
import type { Snapshots } from './snapshots.ts';
import type { TreeUsage } from './tree-usage.ts';

/** What one part of the images' disk takes, and where that disk is mounted. */
export interface FilesystemUsage {
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** A walk over what containers wrote may be long: its result is good for a while. The kubelet asks every ten seconds. */
const KEEP_MS = 10_000;

/** What images and containers take on disk. */
export class ImageFilesystems {
  readonly #root: string;
  readonly #layers: Pick<LayerStore, 'all'>;
  readonly #snapshots: Pick<Snapshots, 'totalUsage'>;
  readonly #nowMs: () => number;
  #walk: { readonly startedMs: number; readonly usage: Promise<TreeUsage> } | undefined;

  constructor(deps: {
    readonly root: string;
    readonly layers: Pick<LayerStore, 'all'>;
    readonly snapshots: Pick<Snapshots, 'totalUsage'>;
    readonly nowMs: () => number;
  }) {
    this.#root = deps.root;
    this.#layers = deps.layers;
    this.#snapshots = deps.snapshots;
    this.#nowMs = deps.nowMs;
  }

  /**
   * Images: the sum of the layers, from memory. Containers: what they have written, at most ten seconds old. Both with
   * the mount point of the disk that holds them: the kubelet takes two different ones for two disks.
   */
  async read(): Promise<{ readonly images: FilesystemUsage; readonly containers: FilesystemUsage }> {
    const mountpoint = mountpointOf(
      this.#root,
      readMounts().map((mount) => mount.mountPoint),
    );
    const layers = this.#layers.all();
    const images = {
      mountpoint,
      usedBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
      inodesUsed: layers.reduce((sum, layer) => sum + layer.inodes, 0),
    };
    return { images, containers: { mountpoint, ...(await this.#containers()) } };
  }

  async #containers(): Promise<TreeUsage> {
    const nowMs = this.#nowMs();
    if (!this.#walk || nowMs - this.#walk.startedMs > KEEP_MS) {
      const walk = { startedMs: nowMs, usage: this.#snapshots.totalUsage() };
      this.#walk = walk;
      // A failed walk is for those who wait for it; the next one asks again.
      walk.usage.catch(() => {
        if (this.#walk === walk) this.#walk = undefined;
      });
    }
    return await this.#walk.usage;
  }
}

/** The mount point that a path without links lies on: the longest that it starts with, the last of equals. */
export function mountpointOf(path: string, mountPoints: readonly string[]): string {
  const covering = mountPoints.filter((point) => point === '/' || path === point || path.startsWith(`${point}/`));
  return covering.reduce((longest, point) => (point.length >= longest.length ? point : longest), '/');
}
