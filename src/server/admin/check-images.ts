import type { CheckImagesRequest, CheckImagesResponse } from '../../../proto/gen/berth/admin.ts';
import type { Images } from '../../image/images.ts';
import type { Handler } from '../unary.ts';

/** CheckImages: whether images on disk are what was pulled. */
export function checkImages(images: Images): Handler<CheckImagesRequest, CheckImagesResponse> {
  return async ({ images: names }, { signal }) => {
    const checked = await images.check(names, signal);
    return {
      images: checked.map(({ id, names: called, problems, unchecked }) => ({
        id,
        names: [...called],
        problems: [...problems],
        uncheckedLayers: unchecked,
      })),
    };
  };
}
