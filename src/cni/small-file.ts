import { constants } from 'node:fs';
import { open } from 'node:fs/promises';

import { invalid } from '../base/errors.ts';

const LIMIT_BYTES = 1024 * 1024;

/** The text of a regular file of at most 1 MiB. Throws `invalid` for anything else, and what the kernel says. */
export async function readSmallFile(path: string): Promise<string> {
  // Opening a FIFO would wait for its writer without NONBLOCK.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = await file.stat();
    const { size } = stats;
    if (!stats.isFile()) throw invalid('file', 'is no regular file');
    if (size > LIMIT_BYTES) throw invalid('file', `is larger than ${LIMIT_BYTES} bytes`);
    // One byte more than allowed: it may be growing while we read.
    const { buffer, bytesRead } = await file.read({
      buffer: Buffer.alloc(Math.min(size, LIMIT_BYTES) + 1),
      position: 0,
    });
    if (bytesRead > size) throw invalid('file', 'is being written');
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
