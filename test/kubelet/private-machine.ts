import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Where a kubelet writes, whatever its configuration says. */
const FOLDERS = ['/var/lib/kubelet', '/var/log/containers', '/var/log/pods'];
/** Settings of the kernel that a kubelet wants, with the values it wants. */
const SETTINGS = {
  'vm/overcommit_memory': '1',
  'vm/panic_on_oom': '0',
  'kernel/panic': '10',
  'kernel/panic_on_oops': '1',
  'kernel/keys/root_maxkeys': '1000000',
  'kernel/keys/root_maxbytes': '25000000',
};

/**
 * A mount namespace in which a kubelet neither sees what a kubelet of this machine has, nor changes the machine's kernel
 * settings: it finds them as it wants them. Dispose of it when all commands have ended.
 */
export class PrivateMachine implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'berth-kubelet-machine-'));
  readonly #made: string[] = [];

  constructor() {
    for (const folder of FOLDERS) {
      if (existsSync(folder)) continue;
      mkdirSync(folder, { recursive: true });
      this.#made.push(folder);
    }
    for (const [name, value] of Object.entries(SETTINGS)) writeFileSync(this.#file(name), `${value}\n`);
  }

  /** The command, with what makes the namespace for it in front. */
  command(words: readonly string[]): [string, ...string[]] {
    const hidden = FOLDERS.map((folder) => `mount -t tmpfs berth-kubelet ${folder}`);
    const settings = Object.keys(SETTINGS).map((name) => `mount --bind ${this.#file(name)} /proc/sys/${name}`);
    const script = ['set -eu', ...hidden, ...settings, 'exec "$@"'].join('\n');
    return ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', ...words];
  }

  [Symbol.dispose](): void {
    // Only if nobody else has put something into it meanwhile.
    for (const folder of this.#made) if (readdirSync(folder).length === 0) rmdirSync(folder);
    rmSync(this.#folder, { recursive: true });
  }

  #file(name: string): string {
    return join(this.#folder, name.replaceAll('/', '.'));
  }
}
