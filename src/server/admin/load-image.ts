import { isAbsolute } from 'node:path';

import type { LoadImageRequest, LoadImageResponse } from '../../../proto/gen/berth/admin.ts';
import { invalid } from '../../base/errors.ts';
import type { Images } from '../../image/images.ts';
import type { Handler } from '../unary.ts';

/** LoadImage: images from a file on this node. */
export function loadImage(images: Images): Handler<LoadImageRequest, LoadImageResponse> {
  return async ({ path, name }, { signal }) => {
    if (!isAbsolute(path)) throw invalid('path', `${JSON.stringify(path)} is not an absolute path`);
    const loaded = await images.load(path, name, signal);
    return { images: loaded.map(({ id, names }) => ({ id, tags: [...names] })) };
  };
}
