import type { ImageStatusRequest, ImageStatusResponse } from '../../../proto/gen/cri/api.ts';
import type { ImageRecord } from '../../image/image-record.ts';
import type { Images } from '../../image/images.ts';
import { imageFromProto } from '../convert/container-config.ts';
import { imageToProto } from '../convert/image.ts';
import { infoToProto } from '../convert/info.ts';
import type { Handler } from '../unary.ts';

function whatItIs({ artifactType, config }: ImageRecord): Record<string, unknown> {
  return artifactType === undefined ? { config } : { artifactType };
}

/** ImageStatus: an image that is not there is an empty answer, never an error. */
export function imageStatus(images: Images): Handler<ImageStatusRequest, ImageStatusResponse> {
  return async ({ image, verbose }) => {
    const found = images.find(imageFromProto(image, 'image').reference);
    if (!found) return { image: undefined, info: {} };
    if (!verbose) return { image: imageToProto(found), info: {} };
    const facts = { id: found.id, ...(await images.findBuild(found)), layers: found.layers, ...whatItIs(found) };
    return { image: imageToProto(found), info: infoToProto(facts) };
  };
}
