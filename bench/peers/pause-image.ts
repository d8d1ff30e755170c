import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { hostArchitecture } from '../../test/fakes/images.ts';
import { repository } from './bench-lab.ts';

const run = promisify(execFile);

/** Reference of the image that the peers make their pods of. */
export const PAUSE_IMAGE = 'localhost/berth-bench/pause:1';

/** Makes an archive as `docker save` writes it, whose only file is Berth's pause program. Returns its path. */
export async function writePauseArchive(dir: string): Promise<string> {
  await mkdir(join(dir, 'rootfs'), { recursive: true });
  await copyFile(join(repository, 'dist/native/pause'), join(dir, 'rootfs/pause'));
  const layer = join(dir, 'layer.tar');
  await run('tar', ['-C', join(dir, 'rootfs'), '--owner=0', '--group=0', '-cf', layer, '.']);
  const digest = createHash('sha256')
    .update(await readFile(layer))
    .digest('hex');
  const config = {
    architecture: hostArchitecture,
    os: 'linux',
    config: { Entrypoint: ['/pause'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  };
  await writeFile(join(dir, 'config.json'), JSON.stringify(config));
  const manifest = [{ Config: 'config.json', RepoTags: [PAUSE_IMAGE], Layers: ['layer.tar'] }];
  await writeFile(join(dir, 'manifest.json'), JSON.stringify(manifest));
  const archive = `${dir}.tar`;
  await run('tar', ['-C', dir, '-cf', archive, 'manifest.json', 'config.json', 'layer.tar']);
  return archive;
}
