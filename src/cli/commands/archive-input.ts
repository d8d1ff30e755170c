import { randomBytes } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';

import { CliError, reworded } from '../cli-error.ts';

/** An archive that berthd can read by its path, for as long as this is open. */
export interface ArchiveInput extends AsyncDisposable {
  readonly path: string;
  /** What a call answers; its CliError speaks of the archive as whoever gave it knows it. */
  named<T>(call: Promise<T>): Promise<T>;
}

/**
 * A file by its name; `-` is what comes on standard input. berthd cannot read on in a pipe of somebody who has left, so
 * what comes by one is kept in a file without a name, in $TMPDIR or /var/tmp, which is gone with this process whatever
 * ends it. Throws CliError for a terminal, and for input that is empty.
 */
export async function openArchiveInput(file: string): Promise<ArchiveInput> {
  if (file !== '-') return { path: resolve(file), named: (call) => call, [Symbol.asyncDispose]: async () => {} };
  if (process.stdin.isTTY)
    throw new CliError('standard input is a terminal; name a file, or send an archive by a pipe');
  const kept = await openUnnamed(process.env['TMPDIR'] ?? '/var/tmp');
  try {
    await kept.writeFile(process.stdin);
    if ((await kept.stat()).size === 0) throw new CliError('standard input is empty, which is no archive');
  } catch (err) {
    await kept.close();
    throw err;
  }
  const path = `/proc/${process.pid}/fd/${kept.fd}`;
  return { path, named: (call) => asStandardInput(path, call), [Symbol.asyncDispose]: () => kept.close() };
}

async function asStandardInput<T>(path: string, call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (err) {
    if (!(err instanceof CliError)) throw err;
    throw reworded(err, err.message.replace(/^path: /, '').replaceAll(path, 'standard input'));
  }
}

async function openUnnamed(folder: string): Promise<FileHandle> {
  const path = join(folder, `berth-load-${randomBytes(8).toString('hex')}`);
  const handle = await open(path, 'wx+', 0o600);
  try {
    await unlink(path);
    return handle;
  } catch (err) {
    await handle.close();
    throw err;
  }
}
