import type { FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse } from '../../../proto/gen/cri/api.ts';
import type { ImageFilesystems } from '../../image/disk-usage.ts';
import type { Handler } from '../unary.ts';

/** ImageFsInfo: the kubelet sees one disk or two by comparing the mount points of images and containers. */
export function imageFsInfo(disk: ImageFilesystems): Handler<ImageFsInfoRequest, ImageFsInfoResponse> {
  return async () => {
    const info = await disk.read();
    return { imageFilesystems: [toProto(info.images)], containerFilesystems: [toProto(info.containers)] };
  };
}

function toProto(usage: { mountpoint: string; usedBytes: number; inodesUsed: number }): FilesystemUsage {
  return {
    timestamp: BigInt(Date.now()) * 1_000_000n,
    fsId: { mountpoint: usage.mountpoint },
    usedBytes: { value: BigInt(usage.usedBytes) },
    inodesUsed: { value: BigInt(usage.inodesUsed) },
  };
}
