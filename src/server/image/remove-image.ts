import type { RemoveImageRequest, RemoveImageResponse } from '../../../proto/gen/cri/api.ts';
import type { Images } from '../../image/images.ts';
import { imageFromProto } from '../convert/container-config.ts';
import type { Handler } from '../unary.ts';

/** RemoveImage: idempotent; by whatever name, the image goes with all its names. */
export function removeImage(images: Images): Handler<RemoveImageRequest, RemoveImageResponse> {
  return async ({ image }) => {
    await images.remove(imageFromProto(image, 'image').reference);
    return {};
  };
}
