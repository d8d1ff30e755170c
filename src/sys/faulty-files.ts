import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

import type { FaultPoints } from '../base/fault-points.ts';

/** What of node:fs changes something, and takes a path first. */
const WRITERS = ['mkdir', 'writeFile', 'rename', 'rm', 'rmdir', 'unlink', 'symlink', 'chmod', 'chown', 'copyFile'];

type Call = (...args: unknown[]) => unknown;

/**
 * Makes the calls of node:fs in this thread that change files places where a test may disturb them: `file writeFile
 * config.json`, with `*` for what is an id or a number in the name. Its error is an errno, `ENOSPC`.
 */
export function disturbFiles(faults: FaultPoints): void {
  for (const name of WRITERS) {
    replace(fs, `${name}Sync`, (error) => {
      throw error;
    });
    replace(fs.promises, name, (error) => Promise.reject(error));
  }
  // Whoever has imported them by name gets them too.
  syncBuiltinESMExports();

  function replace(module: object, name: string, fail: (error: Error) => unknown): void {
    const real: unknown = Reflect.get(module, name);
    if (typeof real !== 'function') return;
    const call: Call = (...args) => {
      const work = (): unknown => Reflect.apply(real, module, args);
      const path = String(args[0]);
      // Faults are files themselves.
      if (path.startsWith(faults.folder)) return work();
      const place = `file ${name.replace(/Sync$/, '')} ${kindOf(path)}`;
      return faults.aroundCall(place, work, (code) => fail(fileError(place, code)));
    };
    Reflect.set(module, name, call);
  }
}

/** The last part of a path, the same for each pod. */
function kindOf(path: string): string {
  const [name = ''] = path.split('/').slice(-1);
  return name.replace(/[0-9a-f]{8}-?[0-9a-f-]{4,}|\d+/g, '*');
}

function fileError(place: string, code: string): Error {
  return Object.assign(new Error(`${code}: fault at ${place}`), { code });
}
