import type { ImageHistoryRequest, ImageHistoryResponse } from '../../../proto/gen/berth/admin.ts';
import type { Images } from '../../image/images.ts';
import type { Handler } from '../unary.ts';

/** ImageHistory: how an image was built. */
export function imageHistory(images: Images): Handler<ImageHistoryRequest, ImageHistoryResponse> {
  return async ({ image }) => {
    const entries = await images.history(image);
    return { entries: entries.map(({ sizeBytes, ...entry }) => ({ ...entry, sizeBytes: BigInt(sizeBytes) })) };
  };
}
