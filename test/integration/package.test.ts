import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { buildBusyboxLayout } from '../fakes/images.ts';
import { PackagedNode } from '../harness/packaged-node.ts';

const TOP = fileURLToPath(new URL('../..', import.meta.url));
const BUILD_TIMEOUT_MS = 600_000;
const OLD = '0.1.0~test1';
const NEW = '0.1.0~test2';
/** What issues of packages promise: with all that the installation makes, where Node's image can be mounted. */
const LIMIT_KIB = Math.floor(60e6 / 1024);
const UNIT = './usr/lib/systemd/system/berthd.service';
/** The places where Node's image is mounted, one a line for each mount. */
const MOUNTS = `awk '$5 ~ "^/usr/lib/berth/" { print $5 }' /proc/self/mountinfo`;
/** In place of mount(8): a kernel that knows no squashfs. */
const NO_SQUASHFS = `#!/bin/sh
case "$*" in *squashfs*) echo "mount: unknown filesystem type 'squashfs'" >&2; exit 32 ;; esac
exec /usr/bin/mount.real "$@"
`;
const NETWORK = JSON.stringify({
  cniVersion: '1.0.0',
  name: 'packaged',
  plugins: [
    {
      type: 'bridge',
      bridge: 'packaged0',
      isGateway: true,
      ipMasq: true,
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.213.77.0/24' }]] },
    },
  ],
});

suite('package', { timeout: 1_800_000 }, () => {
  let folder: string;
  let deb: string;
  let newDeb: string;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-package-test-'));
    deb = pack('first', OLD);
    newDeb = pack('first', NEW);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  function pack(name: string, version: string): string {
    const output = join(folder, name);
    const script = join(TOP, 'scripts/package.sh');
    execFileSync(script, ['--version', version, '--output', output], { timeout: BUILD_TIMEOUT_MS, stdio: 'pipe' });
    const file = readdirSync(output).find((entry) => entry.startsWith(`berth_${version}_`));
    assert.ok(file);
    return join(output, file);
  }

  const dpkgDeb = (...args: string[]): string =>
    execFileSync('dpkg-deb', args, { encoding: 'utf8', maxBuffer: 16 << 20 }).trim();

  test('is the same when it is built again', () => {
    const again = pack('again', OLD);
    for (const file of readdirSync(join(folder, 'again')))
      assert.ok(readFileSync(join(folder, 'first', file)).equals(readFileSync(join(folder, 'again', file))), file);
    assert.ok(readFileSync(again).equals(readFileSync(deb)));
  });

  test('holds what it must, all of it root’s, and nobody else may write there', () => {
    const lines = dpkgDeb('--contents', deb).split('\n');
    const names = lines.map((line) => /\.\/\S*/.exec(line)?.[0] ?? '');
    for (const line of lines) assert.match(line, /^([d-]rw[x-]r-[x-]r-[x-]|lrwxrwxrwx) root\/root /, line);
    for (const wanted of [
      './usr/bin/berthd',
      './usr/bin/berth',
      './usr/lib/berth/native/pause',
      './usr/lib/berth/native/exec-join',
      './usr/lib/berth/native/exec-monitor',
      './usr/lib/berth/native/filter-reader',
      './usr/lib/berth/native/late-close.so',
      `./usr/lib/berth/${OLD}/node.squashfs`,
      `./usr/lib/berth/${OLD}/node/`,
      `./usr/lib/berth/${OLD}/provide-node`,
      './usr/lib/systemd/system/berthd.service',
      './etc/berth/berth.toml',
      './usr/share/doc/berth/copyright',
      './usr/share/doc/berth/changelog.gz',
      './usr/share/doc/berth/examples/crictl.yaml',
      './usr/share/man/man8/berthd.8.gz',
      './usr/share/man/man1/berth.1.gz',
      './usr/share/man/man5/berth.toml.5.gz',
      './usr/share/bash-completion/completions/berth',
      './usr/share/zsh/vendor-completions/_berth',
    ])
      assert.ok(names.includes(wanted), wanted);
    assert.deepEqual(
      names.filter((name) => /\.(ts|map|md5|c|h|cc)$/.test(name)),
      [],
    );
    assert.equal(dpkgDeb('--info', deb, 'conffiles'), '/etc/berth/berth.toml');
    assert.match(dpkgDeb('--field', deb, 'Depends'), /\bconmon, containernetworking-plugins, crun \| runc, iptables/);
    assert.match(dpkgDeb('--field', deb, 'Depends'), /\bdefault-dbus-system-bus \| dbus-system-bus\b/);
    assert.match(dpkgDeb('--field', deb, 'Recommends'), /\bsquashfs-tools\b/);
    assert.ok(Number(dpkgDeb('--field', deb, 'Installed-Size')) < LIMIT_KIB, 'it has grown beyond 60 MB');
    const unit = execFileSync('sh', ['-c', `dpkg-deb --fsys-tarfile "$1" | tar -xO "$2"`, 'sh', deb, UNIT]);
    assert.match(String(unit), new RegExp(`^RequiresMountsFor=/usr/lib/berth/${OLD}/node$`, 'm'));
  });

  test('holds no path of the machine that built it, and starts Node as the checkout does', () => {
    const unpacked = join(folder, 'unpacked');
    dpkgDeb('--extract', deb, unpacked);
    const found = execFileSync('sh', ['-c', 'grep -rlF -- "$1" "$2" || true', 'sh', TOP.replace(/\/$/, ''), unpacked]);
    assert.equal(String(found), '');
    for (const name of ['berthd', 'berth']) {
      const [own, packed] = [join(TOP, 'bin', name), join(unpacked, 'usr/lib/berth/bin', name)].map((file) =>
        [...readFileSync(file, 'utf8').matchAll(/^export (?!NODE_COMPILE_CACHE).*| --[a-z].*? (?="\$)/gm)].map(String),
      );
      assert.deepEqual(packed, own);
    }
    const copyright = readFileSync(join(unpacked, 'usr/share/doc/berth/copyright'), 'utf8');
    for (const name of ['@grpc/grpc-js', 'koffi', 'better-sqlite3', 'undici', `node-linux-${process.arch}`])
      assert.ok(copyright.includes(`\n${name} `), `the licence of ${name}`);
  });

  test('has manual pages without mistakes that groff sees', (t) => {
    try {
      execFileSync('groff', ['--version'], { stdio: 'ignore' });
    } catch {
      t.skip('groff is not installed');
      return;
    }
    for (const page of ['man8/berthd.8.gz', 'man1/berth.1.gz', 'man5/berth.toml.5.gz']) {
      const file = join(folder, 'unpacked/usr/share/man', page);
      const complaints = execFileSync('sh', ['-c', `zcat "$1" | groff -man -Tutf8 -ww -z 2>&1`, 'sh', file]);
      assert.equal(String(complaints), '', page);
    }
  });

  test('installs, is upgraded under a running pod, is removed, refuses to purge pods, and leaves nothing', async () => {
    using node = new PackagedNode();
    try {
      copyFileSync(deb, join(node.given, 'old.deb'));
      copyFileSync(newDeb, join(node.given, 'new.deb'));
      await buildBusyboxLayout(join(node.given, 'layout'), { tag: 'example.com/busybox:test' });
      await node.run(`mkdir -p /etc/cni/net.d; echo '${NETWORK}' > /etc/cni/net.d/10-packaged.conflist`);

      // The stand-in for systemd makes no scopes.
      const groups = '[runtime]\ncgroup_manager = "cgroupfs"\n';
      await node.run(`mkdir -p /etc/berth/berth.toml.d; printf '${groups}' > /etc/berth/berth.toml.d/50-groups.toml`);

      await node.run('dpkg -i /given/old.deb');
      assert.equal(await node.run('cat /var/tmp/invoked'), 'start berthd.service');
      assert.match(await node.run('ls /var/cache/berth'), /compiled/);
      const mounts = await mountsImages(node);
      const files = `dpkg -L berth | while read -r path; do [ -d "$path" ] || echo "$path"; done | xargs -d '\\n' du -ck`;
      const kib = (await node.run(`${files}; du -sk /var/cache/berth`)).match(
        /^\d+(?=\t(?:total|\/var\/cache\/berth)$)/gm,
      );
      const takes = kib?.reduce((sum, each) => sum + Number(each), 0);
      if (mounts) assert.ok(takes !== undefined && takes > 30_000 && takes < LIMIT_KIB, `it takes ${takes} KiB`);
      assert.equal(await node.run(MOUNTS), mounts ? `/usr/lib/berth/${OLD}/node` : '');
      await node.run('berth image load /given/layout');
      const count = 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done';
      await node.run(`berth run --name counts example.com/busybox:test -- sh -c '${count}'`);
      // The oldest: before it becomes sleep, a child of the shell looks as the shell does.
      const processes = `pgrep -f '^/usr/lib/berth/native/pause'; pgrep --oldest -f '${count.slice(0, 6)}'`;
      const before = await node.run(processes);
      assert.ok(before.split('\n').length >= 2, before);

      await node.run('dpkg -i /given/new.deb');
      assert.match(await node.run('cat /var/tmp/invoked'), /\nstop berthd.service\nstart berthd.service$/);
      assert.equal(
        await node.run('cat /var/tmp/unpacked-at-stop'),
        `/usr/lib/berth/${OLD}\n/usr/lib/berth/${NEW}`,
        'it was stopped when its successor was there, and with all that it may still load',
      );
      assert.equal(await node.run('ls -d /usr/lib/berth/[0-9]*'), `/usr/lib/berth/${NEW}`);
      assert.equal(await node.run(MOUNTS), mounts ? `/usr/lib/berth/${NEW}/node` : '');
      assert.match(await node.run('berth version'), /0\.1\.0~test2/);
      assert.equal(await node.run(processes), before, 'the same processes');
      assert.equal(await node.run('berth exec counts echo here'), 'here');
      const numbers = (await node.run('berth logs counts')).split('\n').map(Number);
      assert.deepEqual(
        numbers,
        numbers.map((_, index) => index + 1),
        'no line is lost',
      );

      // The unit disabled, and berthd at work all the same, as where only the kubelet wants it.
      await node.run('touch /var/tmp/disabled; dpkg -i /given/new.deb');
      assert.equal(await node.run('berth exec counts echo still'), 'still');
      await node.run('deb-systemd-invoke stop berthd.service; dpkg -i /given/new.deb');
      assert.notEqual((await node.try('berth version')).code, 0, 'who stopped it finds it stopped');
      await node.run('rm /var/tmp/disabled; systemctl start berthd.service');

      assert.match(await node.run('dpkg -r berth'), /pods go on without berthd: 1/);
      assert.equal(await node.run(processes), before);
      assert.equal((await node.try('ls -d /usr/lib/berth /var/cache/berth')).output.match(/No such/g)?.length, 2);
      assert.equal(await node.run(MOUNTS), '');
      const refused = await node.try('dpkg -P berth');
      assert.notEqual(refused.code, 0);
      assert.match(refused.output, /not purged: pods still run/);
      assert.equal(await node.run(processes), before);

      await node.run('dpkg -i /given/new.deb');
      assert.equal(await node.run('berth exec counts echo again'), 'again');
      await node.run('berth rm counts');
      await node.run('mkdir /var/lib/berth/foreign; mount -t tmpfs tmpfs /var/lib/berth/foreign');
      const kept = await node.try('dpkg -P berth');
      assert.notEqual(kept.code, 0);
      assert.match(kept.output, /umount \/var\/lib\/berth\/foreign/);
      const [made, note] = ['/etc/cni/net.d/10-berth-pods.conflist', '/var/lib/berth/cni/written.sha256'];
      await node.run(`mkdir -p /var/lib/berth/cni; echo '{}' > ${made}; sha256sum ${made} > ${note}`);
      await node.run('umount /var/lib/berth/foreign; dpkg -P berth');
      assert.notEqual((await node.try(`ls ${made}`)).code, 0, 'what berthd made, and nobody changed');
      assert.equal(await node.run('ls -A /var/lib/berth; ls -d /run/berth /etc/berth 2>/dev/null || true'), '');
      await node.end();
      assert.deepEqual(
        node
          .written('*berth*')
          .filter((path) => path !== '/var/lib/berth' && !path.startsWith('/var/tmp/') && !`${path}/`.startsWith(TOP)),
        [],
      );
    } finally {
      await node.end();
    }
  });

  test('has Node unpacked where its image cannot be mounted, says why where neither is possible, and mounts it once', async () => {
    using node = new PackagedNode();
    try {
      copyFileSync(deb, join(node.given, 'old.deb'));
      copyFileSync(newDeb, join(node.given, 'new.deb'));
      writeFileSync(join(node.given, 'mount'), NO_SQUASHFS, { mode: 0o755 });
      const mounts = await mountsImages(node);
      await node.run('touch /var/tmp/disabled; mv /usr/bin/mount /usr/bin/mount.real; cp /given/mount /usr/bin/mount');

      await node.run('dpkg -i /given/old.deb');
      assert.equal(await node.run('berthd --version'), OLD);
      const found = `find /usr/lib/berth -path '*/node*' ! -path '*/node_modules*' -printf '%P %u %m\\n' | sort`;
      const unpacked = (version: string): string =>
        [`node root 755`, 'node.squashfs root 644', 'node/bin root 755', 'node/bin/node root 755']
          .map((line) => `${version}/${line}`)
          .join('\n');
      assert.equal(await node.run(found), unpacked(OLD));
      await node.run('dpkg -i /given/new.deb');
      assert.equal(await node.run(found), unpacked(NEW), 'only the new version’s');

      // As after a power cut while it was being unpacked.
      const folder = `/usr/lib/berth/${NEW}`;
      await node.run(`rm -r ${folder}/node/bin; mkdir -p ${folder}/node.new.1/bin`);
      await node.run('mv /usr/bin/unsquashfs /usr/bin/unsquashfs.real');
      const neither = await node.try('berthd --version');
      assert.equal(neither.code, 1);
      assert.equal(
        neither.output,
        [
          `berthd: Node cannot be had from ${folder}/node.squashfs:`,
          `mounted on ${folder}/node: mount: unknown filesystem type 'squashfs'`,
          'unpacked there: there is no unsquashfs',
          'Let the kernel mount it (modprobe loop; modprobe squashfs), or have it unpacked: apt install squashfs-tools\n',
        ].join('\n'),
      );
      const asNobody = 'setpriv --reuid 65534 --regid 65534 --clear-groups';
      const user = await node.try(`${asNobody} berth --version`);
      assert.equal(user.code, 1);
      assert.match(
        user.output,
        /^berth: Node is not there: .* only root may do it: start berthd, or run this as root\n$/,
      );
      const failed = await node.try('dpkg -i /given/old.deb 2>&1');
      assert.equal(failed.code, 1);
      assert.match(failed.output, /berth: berthd does not run on this machine\. When .*: dpkg --configure berth/);
      assert.equal(failed.output.split('Node cannot be had').length, 2, 'said once');

      await node.run('mv /usr/bin/unsquashfs.real /usr/bin/unsquashfs; mv /usr/bin/mount.real /usr/bin/mount');
      await node.run('dpkg --configure berth');
      await node.run(`umount /usr/lib/berth/${OLD}/node || rm -r /usr/lib/berth/${OLD}/node/bin`);
      const many = '(for one in 1 2 3 4 5 6; do berth --version & done; wait)';
      assert.equal(await node.run(many), Array.from({ length: 6 }, () => `berth ${OLD}`).join('\n'));
      assert.equal(await node.run(MOUNTS), mounts ? `/usr/lib/berth/${OLD}/node` : '');
      assert.equal(await node.run(`${asNobody} berth --version`), `berth ${OLD}`);

      // In the root of a machine that is being made there is no systemd, and nothing stays mounted.
      await node.run('rmdir /run/systemd/system; dpkg -i /given/new.deb');
      assert.equal(await node.run(MOUNTS), '');
      assert.equal(await node.run('berthd --version'), NEW);
      await node.run('mkdir /run/systemd/system; dpkg -P berth');
      assert.equal(await node.run(`${MOUNTS}; find /usr/lib -path '*berth*'`), '');
      if (mounts)
        await node.run(
          `for try in $(seq 100); do losetup -a | grep -F ${NEW}/node.squashfs || exit 0; sleep 0.1; done; exit 1`,
        );
    } finally {
      await node.end();
    }
  });

  test('the archive runs wherever it is, for a user who may mount nothing too', async () => {
    using node = new PackagedNode();
    try {
      const name = `berth-${OLD}-linux-${process.arch}`;
      copyFileSync(join(folder, 'first', `${name}.tar.gz`), join(node.given, 'archive.tar.gz'));
      const asNobody = 'setpriv --reuid 65534 --regid 65534 --clear-groups';
      await node.run(
        'mkdir /opt/here /var/tmp/there; chown 65534:65534 /var/tmp/there; tar -xf /given/archive.tar.gz -C /opt/here',
      );
      await node.run(`${asNobody} tar -xf /given/archive.tar.gz -C /var/tmp/there`);
      assert.equal(await node.run(`/opt/here/${name}/bin/berthd --version`), OLD);
      if (await mountsImages(node)) await node.run(`umount /opt/here/${name}/${OLD}/node`);
      assert.equal(await node.run(`${asNobody} /var/tmp/there/${name}/bin/berth --version`), `berth ${OLD}`);
      assert.match(
        await node.run(`grep RequiresMountsFor /opt/here/${name}/share/doc/berth/examples/berthd.service`),
        new RegExp(`=/opt/${name}/${OLD}/node$`),
      );
    } finally {
      await node.end();
    }
  });
});

/** Whether this machine's kernel mounts Node's images, and root may have it do so: not in every container. */
async function mountsImages(node: PackagedNode): Promise<boolean> {
  const tried = [
    'cd "$(mktemp -d -p /var/tmp)"; mkdir in on; mksquashfs in image -comp zstd >/dev/null',
    'mount -o loop,ro image on && umount on',
  ];
  return (await node.try(tried.join('; '))).code === 0;
}
