import { closeSync, createReadStream } from 'node:fs';

import { createPipe } from '../sys/pipe.ts';
import type { DiskWorkers } from './disk-workers.ts';
import type { ArchiveEntry } from './write-archive.ts';

/** Some of what a pipe holds (pipe(7)), so that a reader and the writing thread take turns. */
const PART_BYTES = 64 * 1024;

/**
 * A tar of these entries, as a thread writes it: no faster than it is read. Throws what writeArchive() throws, and the
 * signal's reason; then what was read is no whole archive.
 */
export async function* streamArchive(
  workers: DiskWorkers,
  entries: readonly ArchiveEntry[],
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const { readFd, writeFd } = createPipe();
  const input = createReadStream('', { fd: readFd, highWaterMark: PART_BYTES });
  const writing = workers.run('archive', { fd: writeFd, entries }, signal).finally(() => closeSync(writeFd));
  // Thrown below, when the reader has come to the end.
  writing.catch(() => {});
  try {
    for await (const part of input as AsyncIterable<Buffer>) yield part;
    await writing;
  } finally {
    // A thread that still writes finds the pipe broken.
    input.destroy();
    await writing.catch(() => {});
  }
}
