import type { Image, ImageSpec } from '../../../proto/gen/cri/api.ts';
import type { ImageRecord } from '../../image/image-record.ts';

/** An image as ListImages and ImageStatus show it. */
export function imageToProto(record: ImageRecord): Image {
  return {
    id: record.id,
    repoTags: [...record.tags],
    repoDigests: [...record.repoDigests],
    size: BigInt(record.sizeBytes),
    ...userToProto(record.config.user),
    spec: specOf(record),
    pinned: record.pinned,
  };
}

/**
 * The image's USER for the kubelet's runAsNonRoot check: a number as uid, a name as username, and uid 0 where the image
 * says nothing. A group after the colon is left out.
 */
export function userToProto(user: string): Pick<Image, 'uid' | 'username'> {
  const name = user.split(':', 1)[0] ?? '';
  if (name === '') return { uid: { value: 0n }, username: '' };
  return /^\d{1,10}$/.test(name) ? { uid: { value: BigInt(name) }, username: '' } : { uid: undefined, username: name };
}

function specOf(record: ImageRecord): ImageSpec {
  return {
    image: record.tags[0] ?? record.repoDigests[0] ?? record.id,
    annotations: { ...record.annotations },
    userSpecifiedImage: '',
    runtimeHandler: '',
    imageRef: '',
  };
}
