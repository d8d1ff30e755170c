import type { Database, Statement } from 'better-sqlite3';

import { parseBody } from './parse-body.ts';
import { inStore } from './store-error.ts';

/** What the table needs of an image; the rest is its body. */
export interface StoredImageRow {
  readonly id: string;
  readonly sizeBytes: number;
  readonly createdAtUs: number;
}

/** A layer that is unpacked on disk. */
export interface LayerRow {
  readonly diffId: string;
  readonly sizeBytes: number;
  readonly inodes: number;
  readonly createdAtUs: number;
}

/** Images that are visible, each a JSON body. */
export class ImageTable<I extends StoredImageRow> {
  readonly #put: Statement<[string, number, number, string]>;
  readonly #delete: Statement<[string]>;
  readonly #all: Statement<[], { id: string; body: string }>;

  constructor(db: Database) {
    this.#put = db.prepare('INSERT OR REPLACE INTO images (id, size_bytes, created_at_us, body) VALUES (?, ?, ?, ?)');
    this.#delete = db.prepare('DELETE FROM images WHERE id = ?');
    this.#all = db.prepare('SELECT id, body FROM images ORDER BY created_at_us');
  }

  put(image: I): void {
    inStore(`write image ${image.id}`, () =>
      this.#put.run(image.id, image.sizeBytes, image.createdAtUs, JSON.stringify(image)),
    );
  }

  delete(id: string): void {
    inStore(`delete image ${id}`, () => this.#delete.run(id));
  }

  /** All images, oldest first. Throws `internal` naming the id of one that cannot be read. */
  all(): I[] {
    const rows = inStore('read images', () => this.#all.all());
    return rows.map(({ id, body }) => parseBody('images', id, body) as I);
  }
}

/** Layers that are unpacked on disk. */
export class LayerTable {
  readonly #put: Statement<[string, number, number, number]>;
  readonly #delete: Statement<[string]>;
  readonly #all: Statement<[], LayerRow>;

  constructor(db: Database) {
    this.#put = db.prepare(
      'INSERT OR REPLACE INTO layers (diff_id, size_bytes, inodes, created_at_us) VALUES (?, ?, ?, ?)',
    );
    this.#delete = db.prepare('DELETE FROM layers WHERE diff_id = ?');
    this.#all = db.prepare(
      'SELECT diff_id AS diffId, size_bytes AS sizeBytes, inodes, created_at_us AS createdAtUs FROM layers ORDER BY diff_id',
    );
  }

  putLayer(layer: LayerRow): void {
    inStore(`write layer ${layer.diffId}`, () =>
      this.#put.run(layer.diffId, layer.sizeBytes, layer.inodes, layer.createdAtUs),
    );
  }

  deleteLayer(diffId: string): void {
    inStore(`delete layer ${diffId}`, () => this.#delete.run(diffId));
  }

  allLayers(): LayerRow[] {
    return inStore('read layers', () => this.#all.all());
  }
}
