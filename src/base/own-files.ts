import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where a Debian package has its documents. */
const PACKAGED = '/usr/share/doc/berth';

/** A file of `deploy`, where this program has it: in its checkout, its archive or its package. */
export function samplePath(name: string, top = findTop()): string {
  return firstThatIs(
    join(top, 'deploy', name),
    join(top, 'share/doc/berth/examples', name),
    join(PACKAGED, 'examples', name),
  );
}

/** A page of `docs`, likewise. */
export function documentPath(name: string, top = findTop()): string {
  return firstThatIs(join(top, 'docs', name), join(top, 'share/doc/berth', name), join(PACKAGED, name));
}

/** The folder of this program: that of the package.json which is Berth's. From dist it is one folder further up. */
export function findTop(): string {
  for (const path of ['../..', '../../..']) {
    const folder = fileURLToPath(new URL(path, import.meta.url));
    try {
      const { name } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name: string };
      if (name === 'berth') return folder;
    } catch {
      // Not this one.
    }
  }
  return '/opt/berth';
}

/** The last one where none is there: that is what a package would have. */
function firstThatIs(...paths: readonly string[]): string {
  return paths.find((path) => existsSync(path)) ?? paths.at(-1) ?? '';
}
