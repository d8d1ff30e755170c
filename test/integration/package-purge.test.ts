/** What the package's last script does with the network that berthd has written, in a machine of its own. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('../../packaging/debian/postrm', import.meta.url));
const MADE = '/etc/cni/net.d/10-berth-pods.conflist';
const NOTE = '/var/lib/berth/cni/written.sha256';

/** Empty folders in place of all that the script removes from, and no process but its own. */
const ENTER = `set -e
for folder in /etc/cni /var/lib /var/cache /var/log /run; do
  [ ! -d $folder ] || mount -t tmpfs -o mode=755 tmpfs $folder
done
mkdir -p /var/lib/berth/cni /var/cache/berth /etc/cni/net.d /etc/berth
`;

/** Purges after `setting`; answers with what is left of the network, and what the script said. */
function purge(setting: string): { readonly left: boolean; readonly said: string; readonly root: string } {
  const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  // With folders of its own also where this machine has no /etc/cni.
  const overlay =
    'mount -t tmpfs tmpfs /mnt; mkdir -p /mnt/u /mnt/w; mount -t overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w overlay /etc; mkdir -p /etc/cni';
  const script = `set -e; ${overlay}; ${ENTER}${setting}
sh "$0" purge
if [ -e ${MADE} ]; then echo left; else echo gone; fi
ls -d /var/lib/berth /run/berth /etc/berth 2>/dev/null || true`;
  const { status, stdout, stderr } = spawnSync('unshare', [...apart, 'sh', '-c', script, SCRIPT], {
    encoding: 'utf8',
    env: { ...process.env, DPKG_MAINTSCRIPT_PACKAGE: 'berth' },
    timeout: 120_000,
  });
  assert.equal(status, 0, stderr);
  const [first = '', ...rest] = stdout.trim().split('\n');
  return { left: first === 'left', said: stderr, root: rest.join(' ') };
}

suite('purge and the network that berthd has written', () => {
  const write = `echo '{"name":"pods"}' > ${MADE}; sha256sum ${MADE} > ${NOTE}`;

  test('it goes, with all of Berth’s folders', () => {
    assert.deepEqual(purge(write), { left: false, said: '', root: '' });
  });

  test('it stays when somebody has changed it, and nothing else does', () => {
    assert.deepEqual(purge(`${write}; echo '{"name":"mine"}' > ${MADE}`), { left: true, said: '', root: '' });
  });

  test('a network without a note of berthd’s stays', () => {
    assert.deepEqual(purge(`echo '{}' > ${MADE}`), { left: true, said: '', root: '' });
  });

  test('a note of what is gone, or that is none, keeps nothing from being purged', () => {
    assert.deepEqual(purge(`${write}; rm ${MADE}`), { left: false, said: '', root: '' });
    assert.deepEqual(purge(`${write}; echo nonsense > ${NOTE}`), { left: true, said: '', root: '' });
  });
});
