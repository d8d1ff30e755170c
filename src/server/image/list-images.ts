import type { ListImagesRequest, ListImagesResponse } from '../../../proto/gen/cri/api.ts';
import type { Images } from '../../image/images.ts';
import { imageToProto } from '../convert/image.ts';
import type { Handler } from '../unary.ts';

/** ListImages: the filter names one image. */
export function listImages(images: Images): Handler<ListImagesRequest, ListImagesResponse> {
  return ({ filter }) => {
    const wanted = filter?.image?.image ?? '';
    if (wanted === '') return { images: images.list().map(imageToProto) };
    const found = images.find(wanted);
    return { images: found ? [imageToProto(found)] : [] };
  };
}
