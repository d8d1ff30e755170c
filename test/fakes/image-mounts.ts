import type { ImageMount } from '../../src/image/image-mounts.ts';
import type { ImageRecord } from '../../src/image/image-record.ts';
import type { ImageMountTable } from '../../src/image/images.ts';

/** Mounts that are only noted. */
export class FakeMounts implements ImageMountTable {
  readonly #mounts: ImageMount[] = [];
  start(): void {}
  list = (): readonly ImageMount[] => this.#mounts;
  of = (imageId: string): string[] =>
    this.#mounts.flatMap((mount) => (mount.imageId === imageId ? [mount.target] : []));
  stale = (): string[] => [];
  removeStale(): void {}
  mount(image: ImageRecord, target: string): string {
    this.#mounts.push({ id: 'm', imageId: image.id, imageName: image.tags[0] ?? '', target, mountedAtUs: 1 });
    return target;
  }
  unmount(wanted: Parameters<ImageMountTable['unmount']>[0]): string[] {
    const found = this.#mounts.filter(({ imageId, target }) =>
      'folder' in wanted ? target === wanted.folder : imageId === wanted.imageId,
    );
    for (const mount of found) this.#mounts.splice(this.#mounts.indexOf(mount), 1);
    return found.map(({ target }) => target);
  }
}
