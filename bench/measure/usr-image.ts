import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createGzip } from 'node:zlib';

import { type FixtureLayer, writeLayout } from '../../test/fakes/images.ts';

/** What a large image is made of. */
export interface UsrImage {
  readonly tag: string;
  /** Bytes of files to take from /usr, before they are compressed. */
  readonly bytes: number;
  readonly layers: number;
}

interface Entry {
  readonly path: string;
  readonly bytes: number;
}

/** Larger ones would leave no room for the many small files that real images have. */
const LARGEST_BYTES = 8 * 1024 * 1024;
const MOST_ENTRIES = 160_000;
/** What a member costs in a tar: its header and half a block of padding. */
const MEMBER_BYTES = 768;

/** Writes an OCI layout whose image has the files of this machine's /usr, in gzip layers of about the same size. */
export async function writeUsrImage(dir: string, image: UsrImage): Promise<void> {
  const parts = inParts(entriesOf('usr', image.bytes), image.layers);
  const layers: FixtureLayer[] = [];
  // Two at a time: each keeps a tar and a gzip busy.
  for (let done = 0; done < parts.length; done += 2) {
    layers.push(...(await Promise.all(parts.slice(done, done + 2).map(gzipLayer))));
  }
  await writeLayout(dir, { tag: image.tag }, layers);
}

/** Names below `/`, folders before what is in them, until there are enough. */
function entriesOf(top: string, enoughBytes: number): Entry[] {
  const entries: Entry[] = [];
  const pending = [top];
  let bytes = 0;
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    if (bytes >= enoughBytes || entries.length >= MOST_ENTRIES) break;
    const facts = lstatSync(join('/', path));
    if (facts.size > LARGEST_BYTES) continue;
    const own = (facts.isFile() ? facts.size : 0) + MEMBER_BYTES;
    bytes += own;
    entries.push({ path, bytes: own });
    if (!facts.isDirectory()) continue;
    const names = readdirSync(join('/', path)).sort().reverse();
    pending.push(...names.map((name) => join(path, name)));
  }
  return entries;
}

function inParts(entries: readonly Entry[], count: number): string[][] {
  const total = entries.reduce((sum, { bytes }) => sum + bytes, 0);
  const parts: string[][] = Array.from({ length: count }, () => []);
  let before = 0;
  for (const { path, bytes } of entries) {
    parts[Math.min(count - 1, Math.floor((before / total) * count))]?.push(path);
    before += bytes;
  }
  return parts;
}

async function gzipLayer(paths: readonly string[]): Promise<FixtureLayer> {
  const flags = ['--no-recursion', '--numeric-owner', '--sort=none', '--format=pax', '--null', '-T', '-'];
  const tar = spawn('tar', ['-C', '/', '-cf', '-', ...flags], { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(tar, 'exit');
  tar.stdin.end(paths.join('\0'));
  const hash = createHash('sha256');
  tar.stdout.on('data', (chunk: Buffer) => hash.update(chunk));
  const parts: Buffer[] = [];
  const compressed: AsyncIterable<Buffer> = tar.stdout.pipe(createGzip());
  for await (const part of compressed) parts.push(part);
  const [code]: unknown[] = await exited;
  // 1: a file changed while it was read; the layer is whole all the same.
  if (code !== 0 && code !== 1) throw new Error(`tar ended with ${String(code)}`);
  const diffId = `sha256:${hash.digest('hex')}`;
  return { diffId, mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', blob: Buffer.concat(parts) };
}
