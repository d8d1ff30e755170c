import { existsSync, mkdirSync, readdirSync, rmdirSync } from 'node:fs';

/** Where a kubelet writes, whatever its configuration says. */
const FOLDERS = ['/var/lib/kubelet', '/var/log/containers', '/var/log/pods'];
/**
 * A mount namespace in which a kubelet does not see what a kubelet of this machine has. Dispose of it when all commands
 * have ended.
 */
export class PrivateMachine implements Disposable {
  readonly #made: string[] = [];

  constructor() {
    for (const folder of FOLDERS) {
      if (existsSync(folder)) continue;
      mkdirSync(folder, { recursive: true });
      this.#made.push(folder);
    }
  }

  /** The command, with what makes the namespace for it in front. */
  command(words: readonly string[]): [string, ...string[]] {
    const hidden = FOLDERS.map((folder) => `mount -t tmpfs berth-kubelet ${folder}`);
    const script = ['set -eu', ...hidden, 'exec "$@"'].join('\n');
    return ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', ...words];
  }

  [Symbol.dispose](): void {
    // Only if nobody else has put something into it meanwhile.
    for (const folder of this.#made) if (readdirSync(folder).length === 0) rmdirSync(folder);
  }
}
