import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

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
 * A command in a mount namespace of its own, in which it finds and changes files in `folder` instead of these settings of
 * the machine. Only the kubelet shall be in it: below a /proc with mounts in it the kernel makes no user namespace another
 * one. What is mounted below a shared mount reaches both sides.
 */
export function withOwnSettings(folder: string, words: readonly string[]): [string, ...string[]] {
  mkdirSync(folder, { recursive: true });
  const mounts = Object.entries(SETTINGS).map(([name, value]) => {
    const file = join(folder, name.replaceAll('/', '.'));
    writeFileSync(file, `${value}\n`);
    return `mount --bind ${file} /proc/sys/${name}`;
  });
  const script = ['set -eu', 'mount --make-private /proc', ...mounts, 'exec "$@"'].join('\n');
  return ['unshare', '--mount', '--propagation', 'unchanged', 'sh', '-c', script, 'sh', ...words];
}
