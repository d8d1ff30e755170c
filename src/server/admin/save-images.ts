import type { ArchivePart, SaveImagesRequest } from '../../../proto/gen/berth/admin.ts';
import type { Images } from '../../image/images.ts';
import type { StreamHandler } from '../unary.ts';

/** SaveImages: an archive of images, as fast as the client takes it. */
export function saveImages(images: Images): StreamHandler<SaveImagesRequest, ArchivePart> {
  return async function* ({ images: names }, { signal }) {
    for await (const data of images.save(names, signal)) yield { data };
  };
}
