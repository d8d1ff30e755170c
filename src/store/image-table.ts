import type { Database, Statement } from 'better-sqlite3';

import { wrap } from '../base/errors.ts';

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
    this.#put.run(image.id, image.sizeBytes, image.createdAtUs, JSON.stringify(image));
  }

  delete(id: string): void {
    this.#delete.run(id);
  }

  /** All images, oldest first. */
  all(): I[] {
    return this.#all.all().map(({ id, body }) => {
      try {
        return JSON.parse(body) as I;
      } catch (err) {
        throw wrap(`read image ${id}`, err);
      }
    });
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
    this.#put.run(layer.diffId, layer.sizeBytes, layer.inodes, layer.createdAtUs);
  }

  deleteLayer(diffId: string): void {
    this.#delete.run(diffId);
  }

  allLayers(): LayerRow[] {
    return this.#all.all();
  }
}
