/**
 * The configurations of images, byte by byte as they came: their digests are the images' ids.
 *
 *     <root>/image/configs/<hex of the image's id>
 */

import { randomBytes } from 'node:crypto';
import { existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { isErrno, wrapErrno } from '../sys/errno.ts';
import { digestOf } from './digest.ts';

/** All configurations that are kept. */
export class ImageConfigs {
  readonly #folder: string;

  /** `root` is Berth's root folder. */
  constructor(root: string) {
    this.#folder = join(root, 'image/configs');
  }

  /** Removes those of images that are not `wanted`, and what was half written. */
  async start(wanted: ReadonlySet<string>): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#folder)) {
      if (!wanted.has(`sha256:${name}`)) await rm(join(this.#folder, name), { recursive: true, force: true });
    }
  }

  /** Keeps one; nothing of it is there on an error. Two may keep the same one at once. */
  async put(bytes: Uint8Array): Promise<void> {
    const path = this.#path(digestOf(bytes));
    const partial = partialOf(path);
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      await writeFile(partial, bytes, { mode: 0o600 });
      await rename(partial, path);
    } catch (err) {
      await rm(partial, { force: true });
      throw wrapErrno(`write ${path}`, err);
    }
  }

  /** The configuration of an image; undefined when it is not kept, or damaged. */
  async find(imageId: string): Promise<Buffer | undefined> {
    try {
      const bytes = await readFile(this.#path(imageId));
      return digestOf(bytes) === imageId ? bytes : undefined;
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return undefined;
      throw wrapErrno(`read the configuration of image ${imageId}`, err);
    }
  }

  /** Puts one back before anything else happens, if a removal of its image has taken it away since `put`. */
  putBack(bytes: Uint8Array): void {
    const path = this.#path(digestOf(bytes));
    if (existsSync(path)) return;
    const partial = partialOf(path);
    writeFileSync(partial, bytes, { mode: 0o600 });
    renameSync(partial, path);
  }

  /** Forgets one, at once: the image may come again while anything is waited for. An unknown one is success. */
  delete(imageId: string): void {
    rmSync(this.#path(imageId), { force: true });
  }

  #path(imageId: string): string {
    return join(this.#folder, imageId.slice('sha256:'.length));
  }
}

function partialOf(path: string): string {
  return `${path}.${randomBytes(6).toString('hex')}.partial`;
}
