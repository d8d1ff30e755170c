import { readMounts } from '../sys/mount.ts';
import { statfs } from '../sys/statfs.ts';
import type { LayerStore } from './layer-store.ts';
import type { WritableLayers } from './writable-layers.ts';

/** What one part of the images' disk takes, and where that disk is mounted. */
export interface FilesystemUsage {
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** The disk that has the containers' writable layers, as a whole. */
export interface ContainersDisk {
  readonly mountpoint: string;
  readonly totalBytes: number;
  readonly totalInodes: number;
  readonly freeInodes: number;
}

/** What images and containers take on disk. */
export class ImageFilesystems {
  readonly #root: string;
  readonly #layers: Pick<LayerStore, 'all' | 'freeing'>;
  readonly #written: Pick<WritableLayers, 'total'>;
  #mountpoint: string | undefined;

  constructor(deps: {
    readonly root: string;
    readonly layers: Pick<LayerStore, 'all' | 'freeing'>;
    readonly written: Pick<WritableLayers, 'total'>;
  }) {
    this.#root = deps.root;
    this.#layers = deps.layers;
    this.#written = deps.written;
  }

  /**
   * Images: the sum of the layers and of what removed ones still take, from memory. Containers: what they have written, at most ten seconds old. Both with
   * the mount point of the disk that holds them: the kubelet takes two different ones for two disks.
   */
  async read(): Promise<{ readonly images: FilesystemUsage; readonly containers: FilesystemUsage }> {
    const { mountpoint } = this;
    const layers = [...this.#layers.all(), ...this.#layers.freeing()];
    const images = {
      mountpoint,
      usedBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
      inodesUsed: layers.reduce((sum, layer) => sum + layer.inodes, 0),
    };
    return { images, containers: { mountpoint, ...(await this.#written.total()) } };
  }

  /** Where the disk with layers and containers is mounted. It stays as it is while berthd has it in use. */
  get mountpoint(): string {
    this.#mountpoint ??= mountpointOf(
      this.#root,
      readMounts().map((mount) => mount.mountPoint),
    );
    return this.#mountpoint;
  }

  /** The disk that containers write to. */
  containersDisk(): ContainersDisk {
    const { totalBytes, totalInodes, freeInodes } = statfs(this.#root);
    return { mountpoint: this.mountpoint, totalBytes, totalInodes, freeInodes };
  }
}

/** The mount point that a path without links lies on: the longest that it starts with, the last of equals. */
export function mountpointOf(path: string, mountPoints: readonly string[]): string {
  const covering = mountPoints.filter((point) => point === '/' || path === point || path.startsWith(`${point}/`));
  return covering.reduce((longest, point) => (point.length >= longest.length ? point : longest), '/');
}
