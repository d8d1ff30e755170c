import { readFileSync } from 'node:fs';

/** This program's version, from the package.json beside bin/. */
export function readOwnVersion(): string {
  for (const path of ['../../package.json', '../../../package.json']) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as {
        name: string;
        version: string;
      };
      if (name === 'berth') return version;
    } catch {
      // From dist it is one folder further up.
    }
  }
  return 'unknown';
}
