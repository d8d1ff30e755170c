/**
 * The steps of deploy/kind/Dockerfile, run one after the other in a copy of this machine's root. What of kind's image and of
 * the network this machine lacks has stand-ins: containerd with some images, ctr, apt-get. systemctl is the real one.
 */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { type Instruction, instructionsOf } from '../deploy/dockerfile.ts';

const DEPLOY = fileURLToPath(new URL('../../deploy', import.meta.url));
const SYSTEMD = 'etc/systemd/system';

/** What kind's node image has, by kind's images/base/Dockerfile and files: programs in /usr/local/bin, units in /etc. */
const BASE: Readonly<Record<string, string>> = {
  'usr/local/bin/containerd': `#!/bin/sh
trap 'echo ended > /kind/containerd; exit' TERM
touch /tmp/serves
while :; do sleep 0.1; done
`,
  'usr/local/bin/ctr': `#!/bin/sh
case "$*" in
  info) [ -e /tmp/serves ] ;;
  '--namespace=k8s.io images ls -q') printf '%s\\n' registry.k8s.io/a:v1 registry.k8s.io/a@sha256:1 sha256:2 docker.io/b:v2 ;;
  '--namespace=k8s.io images export /kind/images.tar '*) shift 4; echo "$*" > /kind/images.tar ;;
  *) echo "ctr: $*" >&2; exit 1 ;;
esac
`,
  'usr/local/bin/apt-get': `#!/bin/sh
set -e
case "$*" in
  update) touch /tmp/updated ;;
  'install '*' /tmp/berth.deb '*)
    [ -e /tmp/updated ] && [ -s /tmp/berth.deb ]
    cp /given/deploy/berthd.service /usr/lib/systemd/system/
    ;;
  *) echo "apt-get: $*" >&2; exit 1 ;;
esac
`,
  [`${SYSTEMD}/containerd.service`]:
    '[Service]\nExecStart=/usr/local/bin/containerd\n[Install]\nWantedBy=multi-user.target\n',
  'etc/default/kubelet': 'KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service\n',
  'var/lib/containerd/content': 'layers',
};

/** The root of the image: this machine's, with all changes in a folder beside. */
const ENTER = `set -e
mount -t overlay -o lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work overlay $FOLDER/root
cd $FOLDER/root
mount --rbind /proc proc; mount --rbind /dev dev
mount -t tmpfs run run; mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p given kind
mount --bind $FOLDER/given given
cp -r given/base/. .
chmod 755 usr/local/bin/containerd usr/local/bin/ctr usr/local/bin/apt-get
in_image() { env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot . "$@"; }
in_image systemctl enable containerd.service
`;

/** What a builder does for an instruction, as shell. */
function stepOf([name, rest]: Instruction, index: number, given: string): string {
  if (name === 'ARG' || name === 'FROM') return '';
  if (name === 'RUN') {
    writeFileSync(join(given, `run-${index}`), rest);
    return `in_image /bin/sh -c "$(cat given/run-${index})"`;
  }
  assert.equal(name, 'COPY', 'a step that this test does not know');
  const [, mode, from = '', to = ''] = /^(?:--chmod=(\d+) )?(\S+) (\/\S+)$/.exec(rest) ?? assert.fail(rest);
  return `install -D -m ${mode ?? '644'} given/deploy/${from} .${to}`;
}

test("the steps of kind's node image leave a node that starts Berth, with the images", {
  skip: existsSync('/usr/bin/systemctl') ? false : 'systemctl is not installed (Debian: systemd)',
  timeout: 300_000,
}, (t) => {
  const folder = mkdtempSync('/var/tmp/berth-kind-');
  // What was mounted in it was so in namespaces that have ended.
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of ['upper', 'work', 'root', 'given']) mkdirSync(join(folder, name));
  const given = join(folder, 'given');
  cpSync(DEPLOY, join(given, 'deploy'), { recursive: true });
  writeFileSync(join(given, 'deploy/kind/berth.deb'), 'a package');
  for (const [path, content] of Object.entries(BASE)) {
    mkdirSync(join(given, 'base', path, '..'), { recursive: true });
    writeFileSync(join(given, 'base', path), content);
  }

  const steps = instructionsOf(readFileSync(join(DEPLOY, 'kind/Dockerfile'), 'utf8')).map((instruction, index) =>
    stepOf(instruction, index, given),
  );
  // The end of containerd is not waited for by the step; of the image nothing else is left to happen.
  const ended =
    'until [ -e kind/containerd ]; do sleep 0.05; done; test ! -e var/lib/containerd; test ! -e tmp/berth.deb';
  const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  const script = [ENTER, ...steps, ended].join('\n');
  const built = spawnSync('unshare', [...apart, 'sh', '-c', script], {
    encoding: 'utf8',
    env: { ...process.env, FOLDER: folder },
    timeout: 240_000,
  });
  assert.equal(built.status, 0, built.stderr);

  const image = join(folder, 'upper');
  const read = (path: string): string => readFileSync(join(image, path), 'utf8');
  const isLink = (path: string): boolean =>
    lstatSync(join(image, path), { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
  assert.equal(read('kind/images.tar'), 'registry.k8s.io/a:v1 docker.io/b:v2\n', 'those with names, once each');
  assert.equal(read('etc/default/kubelet'), 'KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/berthd.service\n');
  assert.ok(isLink(`${SYSTEMD}/multi-user.target.wants/berthd.service`));
  assert.ok(isLink(`${SYSTEMD}/berthd.service.wants/berth-images.service`));
  assert.equal(isLink(`${SYSTEMD}/multi-user.target.wants/containerd.service`), false);
  assert.equal(
    lstatSync(join(image, SYSTEMD, 'containerd.service'), { throwIfNoEntry: false })?.isFile() ?? false,
    false,
  );
  for (const [from, to] of [
    ['crictl.yaml', 'etc/crictl.yaml'],
    ['kind/berth.toml', 'etc/berth/berth.toml.d/50-kind.toml'],
    ['kind/ctr', 'usr/local/bin/ctr'],
  ] as const)
    assert.equal(read(to), readFileSync(join(DEPLOY, from), 'utf8'), to);
  assert.equal(lstatSync(join(image, 'usr/local/bin/ctr')).mode & 0o777, 0o755);
});
