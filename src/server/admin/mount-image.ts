import type {
  ListImageMountsRequest,
  ListImageMountsResponse,
  MountImageRequest,
  MountImageResponse,
  UnmountImageRequest,
  UnmountImageResponse,
} from '../../../proto/gen/berth/admin.ts';
import { invalid } from '../../base/errors.ts';
import type { Images } from '../../image/images.ts';
import type { Handler } from '../unary.ts';

/** MountImage: an image as a folder to look into. */
export function mountImage(images: Images): Handler<MountImageRequest, MountImageResponse> {
  return ({ image, folder }) => ({ folder: images.mount(image, folder) });
}

/** UnmountImage: the end of that. */
export function unmountImage(images: Images): Handler<UnmountImageRequest, UnmountImageResponse> {
  return ({ target }) => {
    if (target === '') throw invalid('target', 'is empty');
    return { folders: [...images.unmount(target)] };
  };
}

/** ListImageMounts: what is mounted where. */
export function listImageMounts(images: Images): Handler<ListImageMountsRequest, ListImageMountsResponse> {
  return () => ({
    mounts: images.mounts().map(({ imageId, imageName, target, mountedAtUs }) => ({
      imageId,
      image: imageName,
      folder: target,
      mountedAtUs: BigInt(mountedAtUs),
    })),
  });
}
