/**
 * Images that somebody has mounted to look into them, read-only. What the kernel has mounted counts: a record without a
 * mount is stale.
 *
 *     <state>/image-mounts/<id>/mount.json     what is mounted where
 *     <state>/image-mounts/<id>/rootfs         where, unless the caller named a folder
 */

import { randomBytes } from 'node:crypto';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import * as v from 'valibot';

import type { Clock } from '../base/clock.ts';
import { BerthError, describe, invalid, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isErrno, wrapErrno } from '../sys/errno.ts';
import { MS_NODEV, MS_NOSUID, MS_RDONLY, readMounts, unmount } from '../sys/mount.ts';
import type { ImageRecord } from './image-record.ts';
import type { Snapshots } from './snapshots.ts';

/** One image that is mounted. */
export interface ImageMount {
  readonly id: string;
  readonly imageId: string;
  /** What the image was called then. */
  readonly imageName: string;
  readonly target: string;
  readonly mountedAtUs: number;
}

/** What the mounts are built from. */
export interface ImageMountsDeps {
  /** Berth's state folder. */
  readonly stateDir: string;
  readonly snapshots: Pick<Snapshots, 'mountReadonly'>;
  readonly clock: Clock;
  readonly log: Logger;
}

const schema = v.object({
  id: v.string(),
  imageId: v.string(),
  imageName: v.string(),
  target: v.string(),
  mountedAtUs: v.number(),
});

const FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV;

/** All mounts that people have made of images. */
export class ImageMounts {
  readonly #deps: ImageMountsDeps;
  readonly #folder: string;

  constructor(deps: ImageMountsDeps) {
    this.#deps = deps;
    this.#folder = join(deps.stateDir, 'image-mounts');
  }

  /** Forgets what is not mounted any more, since the machine was started again or somebody has unmounted it. */
  start(): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    for (const id of this.stale()) {
      try {
        this.removeStale(id);
      } catch (err) {
        this.#deps.log.warn({ mount: id, err: describe(err) }, 'record of an image mount not removed');
      }
    }
  }

  /** What is mounted, oldest first. */
  list(): ImageMount[] {
    const records = this.#records();
    if (records.length === 0) return [];
    const mounted = mountedOverlays();
    return records
      .filter(({ target }) => mounted.has(target))
      .sort((one, other) => one.mountedAtUs - other.mountedAtUs);
  }

  /** Where an image is mounted. */
  of(imageId: string): readonly string[] {
    return this.list().flatMap((mount) => (mount.imageId === imageId ? [mount.target] : []));
  }

  /** The ids of records whose mounts are gone. */
  stale(): readonly string[] {
    const alive = new Set(this.list().map(({ id }) => id));
    return this.#names().filter((id) => !alive.has(id));
  }

  /** Removes a record that is stale; one that is not stays. */
  removeStale(id: string): void {
    if (this.stale().includes(id)) this.#forget(id);
  }

  /**
   * Mounts an image, without its set-user-id bits and devices, at an empty folder, or at one of Berth's own when the text
   * is empty; returns where. Throws `invalid` for what is no such folder.
   */
  mount(image: ImageRecord, folder: string): string {
    const id = randomBytes(6).toString('hex');
    const own = join(this.#folder, id);
    if (folder !== '') {
      const mounted = this.list().find(({ target }) => target === resolved(folder));
      if (mounted) throw invalid('folder', `${folder} has image ${mounted.imageName} mounted already`);
      checkFolder(folder);
    }
    const imageName = image.tags[0] ?? image.repoDigests[0] ?? image.id;
    try {
      mkdirSync(join(own, 'rootfs'), { recursive: true, mode: 0o755 });
      const target = realpathSync(folder === '' ? join(own, 'rootfs') : folder);
      const record: ImageMount = { id, imageId: image.id, imageName, target, mountedAtUs: this.#deps.clock.nowUs() };
      writeFileSync(join(own, 'mount.json'), JSON.stringify(record), { mode: 0o600 });
      this.#deps.snapshots.mountReadonly(target, image.layers, { flags: FLAGS });
      this.#deps.log.info({ image: image.id, target }, 'image mounted');
      return target;
    } catch (err) {
      this.#forget(id);
      throw wrapErrno(`mount image ${imageName}`, err);
    }
  }

  /** Unmounts what is mounted at a folder, or all mounts of the image with this id; returns where they were. */
  unmount(target: { readonly folder: string } | { readonly imageId: string }): readonly string[] {
    const wanted = this.list().filter((mount) =>
      'folder' in target ? mount.target === resolved(target.folder) : mount.imageId === target.imageId,
    );
    for (const mount of wanted) {
      unmount(mount.target);
      this.#forget(mount.id);
      this.#deps.log.info({ image: mount.imageId, target: mount.target }, 'image unmounted');
    }
    return wanted.map((mount) => mount.target);
  }

  #names(): string[] {
    return unlessGone(() => readdirSync(this.#folder)) ?? [];
  }

  #records(): ImageMount[] {
    return this.#names().flatMap((id) => {
      const text = unlessGone(() => readFileSync(join(this.#folder, id, 'mount.json'), 'utf8'));
      const record = text === undefined ? undefined : parsed(text);
      return record?.id === id ? [record] : [];
    });
  }

  #forget(id: string): void {
    const own = join(this.#folder, id);
    unlessGone(() => rmSync(join(own, 'mount.json'), { force: true }));
    // Never what is in it: it may still be mounted.
    for (const folder of [join(own, 'rootfs'), own]) unlessGone(() => rmdirSync(folder));
  }
}

function checkFolder(folder: string): void {
  try {
    if (!folder.startsWith('/')) throw invalid('folder', `${folder} is not an absolute path`);
    if (!statSync(folder).isDirectory()) throw invalid('folder', `${folder} is no folder`);
    if (readdirSync(folder).length > 0) throw invalid('folder', `${folder} is not empty`);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) throw invalid('folder', `${folder} does not exist`);
    throw err instanceof BerthError ? err : wrap(`folder ${folder}`, err);
  }
}

/** Where overlays are mounted. */
function mountedOverlays(): ReadonlySet<string> {
  return new Set(readMounts().flatMap(({ type, mountPoint }) => (type === 'overlay' ? [mountPoint] : [])));
}

function resolved(folder: string): string {
  return unlessGone(() => realpathSync(folder)) ?? folder;
}

function parsed(text: string): ImageMount | undefined {
  try {
    return v.parse(schema, JSON.parse(text));
  } catch {
    return undefined;
  }
}

function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return undefined;
    throw err;
  }
}
