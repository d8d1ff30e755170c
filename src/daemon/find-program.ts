import { accessSync, constants } from 'node:fs';
import { isAbsolute, join } from 'node:path';

/** Where programs are looked up; the daemon's own PATH may lack the sbin folders. */
const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/libexec/podman'];

/** The absolute path of a program, or undefined when it is not installed. */
export function findProgram(nameOrPath: string): string | undefined {
  const candidates = isAbsolute(nameOrPath) ? [nameOrPath] : FOLDERS.map((folder) => join(folder, nameOrPath));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
