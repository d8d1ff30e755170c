/** The packages that are installed in the machine: this checkout's, and the same again as the version after it. */

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const TOP = join(import.meta.dirname, '../..');
const SCRIPT = join(TOP, 'scripts/package.sh');
const PACK_TIMEOUT_MS = 15 * 60_000;

/** The version that Debian sorts right after that one. */
export function nextVersion(version: string): string {
  return `${version}+next`;
}

/** Makes both. Returns where on the disk with the checkout they shall be, and where they are now. */
export function makePackages(work: string): ReadonlyMap<string, string> {
  const { version } = JSON.parse(readFileSync(join(TOP, 'package.json'), 'utf8')) as { version: string };
  return new Map([
    ['vm/package/berth.deb', makePackage(version, join(work, 'package'))],
    ['vm/next/berth.deb', makePackage(nextVersion(version), join(work, 'next'))],
  ]);
}

function makePackage(version: string, folder: string): string {
  const args = ['-n', '15', SCRIPT, '--version', version, '--output', folder];
  execFileSync('nice', args, { timeout: PACK_TIMEOUT_MS, stdio: ['ignore', 'ignore', 'inherit'] });
  const made = readdirSync(folder).find((name) => name.endsWith('.deb'));
  if (made === undefined) throw new Error(`npm run package has made no berth_${version} in ${folder}`);
  return join(folder, made);
}
