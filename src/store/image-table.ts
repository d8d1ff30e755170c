import type { Database, Statement } from 'better-sqlite3';

import { BerthError } from '../base/errors.ts';
import { parseBody } from './parse-body.ts';
import { type CopiedTable, sumOf } from './record-copies.ts';
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
export class ImageTable<I extends StoredImageRow> implements CopiedTable {
  /** Told of each row that is put or deleted. */
  onChange: (id: string) => void = () => {};
  readonly #put: Statement<[string, number, number, string, string]>;
  readonly #delete: Statement<[string]>;
  readonly #all: Statement<[], { id: string; body: string }>;
  readonly #find: Statement<[string], { body: string }>;

  constructor(db: Database) {
    this.#put = db.prepare(
      'INSERT OR REPLACE INTO images (id, size_bytes, created_at_us, body, body_sum) VALUES (?, ?, ?, ?, ?)',
    );
    this.#find = db.prepare('SELECT body FROM images WHERE id = ?');
    this.#delete = db.prepare('DELETE FROM images WHERE id = ?');
    this.#all = db.prepare('SELECT id, body FROM images ORDER BY created_at_us');
  }

  put(image: I): void {
    const body = JSON.stringify(image);
    inStore(`write image ${image.id}`, () =>
      this.#put.run(image.id, image.sizeBytes, image.createdAtUs, body, sumOf(body)),
    );
    this.onChange(image.id);
  }

  delete(id: string): void {
    inStore(`delete image ${id}`, () => this.#delete.run(id));
    this.onChange(id);
  }

  /** All images, oldest first. Throws `internal` naming the id of one that cannot be read. */
  all(): I[] {
    const rows = inStore('read images', () => this.#all.all());
    return rows.map(({ id, body }) => parseBody('images', id, body) as I);
  }

  keys(): string[] {
    return inStore('read images', () => this.#all.all()).map(({ id }) => id);
  }

  findText(id: string): string | undefined {
    return inStore(`read image ${id}`, () => this.#find.get(id))?.body;
  }

  putText(id: string, text: string): void {
    this.put(parseBody('images', id, text) as I);
  }
}

/** Layers that are unpacked on disk. */
export class LayerTable implements CopiedTable {
  /** Told of each row that is put or deleted. */
  onChange: (diffId: string) => void = () => {};
  readonly #put: Statement<[string, number, number, number, string]>;
  readonly #delete: Statement<[string]>;
  readonly #all: Statement<[], LayerRow>;
  readonly #find: Statement<[string], LayerRow>;

  constructor(db: Database) {
    const columns = 'diff_id AS diffId, size_bytes AS sizeBytes, inodes, created_at_us AS createdAtUs';
    this.#put = db.prepare(
      'INSERT OR REPLACE INTO layers (diff_id, size_bytes, inodes, created_at_us, row_sum) VALUES (?, ?, ?, ?, ?)',
    );
    this.#delete = db.prepare('DELETE FROM layers WHERE diff_id = ?');
    this.#all = db.prepare(`SELECT ${columns} FROM layers ORDER BY diff_id`);
    this.#find = db.prepare(`SELECT ${columns} FROM layers WHERE diff_id = ?`);
  }

  putLayer({ diffId, sizeBytes, inodes, createdAtUs }: LayerRow): void {
    // As `SUMMED_COLUMNS` of sound-database.ts has it.
    const sum = sumOf([diffId, sizeBytes, inodes, createdAtUs].join(' '));
    inStore(`write layer ${diffId}`, () => this.#put.run(diffId, sizeBytes, inodes, createdAtUs, sum));
    this.onChange(diffId);
  }

  deleteLayer(diffId: string): void {
    inStore(`delete layer ${diffId}`, () => this.#delete.run(diffId));
    this.onChange(diffId);
  }

  allLayers(): LayerRow[] {
    return inStore('read layers', () => this.#all.all());
  }

  keys(): string[] {
    return this.allLayers().map(({ diffId }) => diffId);
  }

  findText(diffId: string): string | undefined {
    const layer = inStore(`read layer ${diffId}`, () => this.#find.get(diffId));
    return layer && JSON.stringify(layer);
  }

  putText(diffId: string, text: string): void {
    const layer = JSON.parse(text) as LayerRow;
    if (layer.diffId !== diffId) throw new BerthError('internal', `it is not the row of layer ${diffId}`);
    this.putLayer(layer);
  }
}
