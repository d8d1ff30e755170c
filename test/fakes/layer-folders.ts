import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';

import { BerthError } from '../../src/base/errors.ts';
import type { ImageStore } from '../../src/image/image-commit.ts';
import type { StoredImage } from '../../src/image/image-record.ts';
import type { LayerFolders } from '../../src/image/layer-holds.ts';

/** A layer store that verifies what it is given and keeps only the sizes. */
export class MemoryLayers implements LayerFolders {
  readonly layers = new Map<string, number>();
  /** What happened, in order: `unpack <diffId>`, `remove <diffId>`, `flush`. */
  readonly calls: string[] = [];
  /** Awaited before an unpack or a removal goes on. */
  gate: ((call: string) => Promise<void>) | undefined;

  has(diffId: string): boolean {
    return this.layers.has(diffId);
  }

  prepare(): void {}

  async unpack(source: Parameters<LayerFolders['unpack']>[0], diffId: string, signal: AbortSignal) {
    if (source.arrival) throw new BerthError('cancelled', 'no thread is free to follow a download');
    this.calls.push(`unpack ${diffId}`);
    await this.gate?.(`unpack ${diffId}`);
    signal.throwIfAborted();
    const bytes = await readFile(source.path);
    const plain = { none: (raw: Buffer) => raw, gzip: gunzipSync, zstd: zstdDecompressSync, detect: gunzipSync };
    const tar = plain[source.compression](bytes);
    const [algorithm = ''] = diffId.split(':');
    const actual = `${algorithm}:${createHash(algorithm).update(tar).digest('hex')}`;
    if (actual !== diffId) throw new BerthError('precondition', `layer unpacks to ${actual}`);
    this.layers.set(diffId, tar.length);
    return { sizeBytes: tar.length, inodes: 1 };
  }

  async placeFile(file: Parameters<LayerFolders['placeFile']>[0], layerId: string) {
    this.calls.push(`place ${file.name}${file.isFolder ? '/' : ''}`);
    this.layers.set(layerId, (await readFile(file.path)).length);
    return { sizeBytes: this.layers.get(layerId) ?? 0, inodes: 1 };
  }

  async remove(diffId: string): Promise<void> {
    if (!this.layers.delete(diffId)) return;
    this.calls.push(`remove ${diffId}`);
    await this.gate?.(`remove ${diffId}`);
  }

  async flush(): Promise<void> {
    this.calls.push('flush');
  }

  readonly strayFolders = new Set<string>();

  strays(): string[] {
    return [...this.strayFolders];
  }

  async removeStray(name: string): Promise<void> {
    this.strayFolders.delete(name);
  }

  /** Those that are found damaged when somebody looks. */
  readonly damaged = new Map<string, string>();
  /** Those that something is mounted of. */
  readonly mounted = new Set<string>();

  archived(diffId: string) {
    const sizeBytes = this.layers.get(diffId);
    return sizeBytes === undefined ? undefined : { layer: { diffId, diff: '/diff', frame: '/frame' }, sizeBytes };
  }

  async check(diffId: string): Promise<string[]> {
    const problem = this.damaged.get(diffId);
    if (problem === undefined) return [];
    this.layers.delete(diffId);
    this.damaged.delete(diffId);
    return [problem];
  }

  inUse(): ReadonlySet<string> {
    return this.mounted;
  }

  all(): { diffId: string; sizeBytes: number }[] {
    return [...this.layers].map(([diffId, sizeBytes]) => ({ diffId, sizeBytes }));
  }
}

/** Keeps images in memory, as JSON, so that what does not survive a store does not survive here either. */
export class MemoryImageStore implements ImageStore {
  readonly rows = new Map<string, string>();
  readonly images: ImageStore['images'] = {
    put: (image) => void this.rows.set(image.id, JSON.stringify(image)),
    delete: (id) => void this.rows.delete(id),
    all: () => [...this.rows.values()].map((row) => JSON.parse(row) as StoredImage),
  };

  transaction<T>(fn: () => T): T {
    return fn();
  }
}
