/** Takes the files out of an image archive, under names of its own: none of the archive's names reaches the disk. */

import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';

import { BerthError, invalid, wrap } from '../base/errors.ts';
import { wrapErrno } from '../sys/errno.ts';
import { inflate } from './inflate.ts';
import { showBytes } from './show-bytes.ts';
import { type TarLimits, type TarMember, TarReader } from './tar-reader.ts';

/** What to take out, and where to. */
export interface ExtractRequest {
  readonly archive: string;
  /** The folder to make; it must not exist. */
  readonly target: string;
  readonly limits: TarLimits;
}

/** A file of an archive, or a link to one. */
export interface ExtractedMember {
  /** Its path in the archive, without a leading `./`. */
  readonly name: string;
  /** The file that has its content; undefined for a link. */
  readonly path: string | undefined;
  /** The member that a link stands for; `docker save` writes the same layer twice so. */
  readonly linkTo: string | undefined;
  /** Digest of the content; empty for a link. */
  readonly digest: string;
  readonly sizeBytes: number;
}

/**
 * Extracts an archive, plain or compressed. Throws `invalid` naming the member that climbs out or is no file, and what
 * `throwIfCancelled` throws. The target is left as it is then.
 */
export async function extractArchive(
  request: ExtractRequest,
  throwIfCancelled: () => void,
): Promise<readonly ExtractedMember[]> {
  mkdirSync(request.target, { mode: 0o700 });
  const tar = new TarReader(inflate({ path: request.archive, compression: 'detect' }), request.limits);
  const found = new Map<string, ExtractedMember>();
  try {
    for (let member = await tar.next(); member; member = await tar.next()) {
      throwIfCancelled();
      try {
        const extracted = await extract(member, tar, join(request.target, String(found.size)), throwIfCancelled);
        // A name that comes twice would make two readers see two images.
        if (extracted && found.has(extracted.name)) throw invalid('name', 'comes twice in the archive');
        if (extracted) found.set(extracted.name, extracted);
      } catch (err) {
        const what = `member ${showBytes(member.name)}`;
        // The reader has named it already when its data are cut off.
        throw err instanceof BerthError && err.message.startsWith(`${what}: `) ? err : wrapErrno(what, err);
      }
    }
    return [...found.values()];
  } catch (err) {
    throw wrap(request.archive, err);
  } finally {
    await tar.close();
  }
}

async function extract(
  member: TarMember,
  tar: TarReader,
  path: string,
  throwIfCancelled: () => void,
): Promise<ExtractedMember | undefined> {
  const name = archivePath(member.name.toString('utf8'), '');
  switch (member.type) {
    case 'directory':
      return undefined;
    case 'file':
      if (member.sparse) throw invalid('type', 'is a sparse file, which no image archive has');
      return { name, path, linkTo: undefined, ...(await writeMember(path, tar, throwIfCancelled)) };
    case 'symlink':
    case 'hardlink': {
      const from = member.type === 'symlink' ? name.slice(0, name.lastIndexOf('/') + 1) : '';
      const linkTo = archivePath(member.link.toString('utf8'), from);
      return { name, path: undefined, linkTo, digest: '', sizeBytes: 0 };
    }
    default:
      throw invalid('type', `is a ${member.type}, which no image archive has`);
  }
}

async function writeMember(
  path: string,
  tar: TarReader,
  throwIfCancelled: () => void,
): Promise<{ digest: string; sizeBytes: number }> {
  const hash = createHash('sha256');
  const fd = openSync(path, 'wx', 0o600);
  let sizeBytes = 0;
  try {
    for (let part = await tar.data(); part.length > 0; part = await tar.data()) {
      throwIfCancelled();
      hash.update(part);
      for (let done = 0; done < part.length; ) done += writeSync(fd, part, done);
      sizeBytes += part.length;
    }
  } finally {
    closeSync(fd);
  }
  return { digest: `sha256:${hash.digest('hex')}`, sizeBytes };
}

/** A path in the archive, from a folder of it. Throws `invalid` for one that is absolute or climbs out. */
function archivePath(text: string, from: string): string {
  if (text.startsWith('/')) throw invalid('name', `"${text}" is an absolute path`);
  const path: string[] = [];
  for (const part of `${from}${text}`.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') path.push(part);
    else if (path.pop() === undefined) throw invalid('name', `"${text}" leads out of the archive`);
  }
  return path.join('/');
}
