import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { findTop } from './own-files.ts';

/** This program's version, from the package.json beside bin/. */
export function readOwnVersion(): string {
  try {
    return (JSON.parse(readFileSync(join(findTop(), 'package.json'), 'utf8')) as { version: string }).version;
  } catch {
    return 'unknown';
  }
}
