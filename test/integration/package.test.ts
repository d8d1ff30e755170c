import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
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
      './usr/lib/berth/native/exec-monitor',
      './usr/lib/berth/node/bin/node',
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
    // What Node takes is most of it: docs/install.md tells.
    assert.ok(Number(dpkgDeb('--field', deb, 'Installed-Size')) < 120_000, 'it has grown beyond 120 MB');
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
      await node.run('berth image load /given/layout');
      const count = 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done';
      await node.run(`berth run --name counts example.com/busybox:test -- sh -c '${count}'`);
      const processes = `pgrep -f '^/usr/lib/berth/native/pause|${count.slice(0, 6)}' | sort -n`;
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
});
