import type { RemoveImageRequest, RemoveImageResponse } from '../../../proto/gen/cri/api.ts';
import { withDeadline } from '../../base/deadline.ts';
import type { Images } from '../../image/images.ts';
import { imageFromProto } from '../convert/container-config.ts';
import type { Handler } from '../unary.ts';

/**
 * How long the answer waits for the space that the image took. A kubelet that is short of disk looks right after the
 * answer whether there is enough now, and evicts pods if not (reclaimNodeLevelResources() of its eviction manager).
 */
const FREE_TIMEOUT_MS = 10_000;

/**
 * RemoveImage: idempotent; by whatever name, the image goes with all its names. A client that has little patience is
 * answered before the files of a large image are gone.
 */
export function removeImage(images: Images): Handler<RemoveImageRequest, RemoveImageResponse> {
  return async ({ image }, { patience }) => {
    using waiting = withDeadline('space of the image', FREE_TIMEOUT_MS, patience);
    await images.remove(imageFromProto(image, 'image').reference, waiting);
    return {};
  };
}
