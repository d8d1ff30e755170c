import type { PruneImagesRequest, PruneImagesResponse } from '../../../proto/gen/berth/admin.ts';
import type { Images } from '../../image/images.ts';
import type { Handler } from '../unary.ts';

/** PruneImages: removes what takes space and belongs to nothing, or only tells what that is. */
export function pruneImages(images: Images): Handler<PruneImagesRequest, PruneImagesResponse> {
  return async ({ dryRun, unusedImages }) => {
    const garbage = await images.prune({ dryRun, unusedImages, damagedImages: true });
    return { items: garbage.map(({ bytes, ...item }) => ({ ...item, bytes: BigInt(bytes) })) };
  };
}
