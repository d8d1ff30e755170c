import type {
  ImageFilter,
  ListImagesRequest,
  ListImagesResponse,
  StreamImagesRequest,
  StreamImagesResponse,
} from '../../../proto/gen/cri/api.ts';
import type { ImageRecord } from '../../image/image-record.ts';
import type { Images } from '../../image/images.ts';
import { imageToProto } from '../convert/image.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** ListImages: the filter names one image. */
export function listImages(images: Images): Handler<ListImagesRequest, ListImagesResponse> {
  return ({ filter }) => ({ images: filtered(images, filter).map(imageToProto) });
}

/** StreamImages: what ListImages gives at this moment, in parts. */
export function streamImages(images: Images): StreamHandler<StreamImagesRequest, StreamImagesResponse> {
  return async function* ({ filter }) {
    for (const part of inChunks(filtered(images, filter), imageToProto)) yield { images: part };
  };
}

function filtered(images: Images, filter: ImageFilter | undefined): readonly ImageRecord[] {
  const wanted = filter?.image?.image ?? '';
  if (wanted === '') return images.list();
  const found = images.find(wanted);
  return found ? [found] : [];
}
