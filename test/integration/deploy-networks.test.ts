/** Each network of deploy/cni carries a real pod, and deploy/crictl.yaml a real crictl. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { findCrictl } from '../harness/crictl.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const deploy = fileURLToPath(new URL('../../deploy', import.meta.url));
const FORWARDING = '/proc/sys/net/ipv6/conf/all/forwarding';
const HOST_PORT = 28_410;
const crictl = findCrictl();
const missing = ['bridge', 'ptp', 'bandwidth'].filter((name) => !existsSync(join('/usr/lib/cni', name)));

/** Which families pods of a network have, in this order, and whether their rate can be limited. */
const networks: readonly [file: string, families: readonly (4 | 6)[], limits: boolean][] = [
  ['10-berth.conflist', [4], false],
  ['10-berth-ipv6.conflist', [6], false],
  ['10-berth-dual-stack.conflist', [4, 6], true],
  ['10-berth-ptp.conflist', [4], true],
];

suite('files of deploy/', { skip: missing.length > 0 ? `no CNI plugins ${missing}` : false, timeout: 900_000 }, () => {
  let lab: PodLab;
  let forwarding: string;
  before(async () => {
    forwarding = readFileSync(FORWARDING, 'utf8');
    lab = await PodLab.start({ files: { 'www/index.html': 'a page of the pod\n' } });
  });
  afterEach((t) => lab.afterTest(t));
  after(async () => {
    await lab.close();
    // The plugins turn it on for good.
    writeFileSync(FORWARDING, forwarding);
  });

  /** Puts the network in force, with a bridge and addresses that no other test has. */
  const use = async (file: string): Promise<{ subnet4: string; subnet6: string }> => {
    const { bridge, subnet } = lab.berthd.network;
    const subnet4 = subnet.replace(/0\/24$/, '');
    const subnet6 = `fd10:88:${subnet.split('.')[2]}::`;
    const network = readFileSync(join(deploy, 'cni', file), 'utf8')
      .replace('"berth0"', JSON.stringify(bridge))
      .replace('10.88.0.0/16', subnet)
      .replace('fd10:88::/64', `${subnet6}/64`)
      .replace(
        '"host-local",',
        `"host-local", "dataDir": ${JSON.stringify(join(lab.berthd.root, 'addresses', file))},`,
      );
    // The kinds of networks have one bridge, which must not keep the addresses of the one before.
    if (existsSync(`/sys/class/net/${bridge}`)) execFileSync('ip', ['link', 'delete', bridge]);
    const seen = lab.berthd.logged('"msg":"pods get this CNI network"', 1);
    rmSync(join(lab.berthd.networks, '10-test.conflist'), { force: true });
    for (const [name] of networks) rmSync(join(lab.berthd.networks, name), { force: true });
    writeFileSync(join(lab.berthd.networks, file), network);
    await seen;
    return { subnet4, subnet6 };
  };

  for (const [file, families, limits] of networks) {
    test(`cni/${file}: a pod has its addresses, serves, and is reached by its host port`, async () => {
      const { subnet4, subnet6 } = await use(file);
      const pod = await lab.runPod(
        lab.podConfig({
          portMappings: [{ containerPort: 80, hostPort: HOST_PORT }],
          annotations: limits ? { 'kubernetes.io/ingress-bandwidth': '10M' } : {},
        }),
      );
      const { network } = (await lab.podStatus(pod)).status ?? {};
      const ips = [network?.ip ?? '', ...(network?.additionalIps ?? []).map(({ ip }) => ip)];
      assert.deepEqual(
        ips.map((ip) => (ip.startsWith(subnet6) ? 6 : Number(ip.startsWith(subnet4)) * 4)),
        families,
        ips.join(' '),
      );
      await lab.start(pod, { command: ['httpd', '-f', '-p', '80', '-h', '/www'] });
      for (const ip of ips) assert.equal(await page(ip, 80), 'a page of the pod\n');
      // From the pod to the host, and through a port of the host.
      const gateway = families[0] === 6 ? `${subnet6}1` : `${subnet4}1`;
      await lab.output(pod, { command: ['ping', '-c', '1', '-W', '5', gateway] });
      assert.equal(await page(gateway, HOST_PORT), 'a page of the pod\n');
      const shaped = execFileSync('tc', ['qdisc', 'show'], { encoding: 'utf8' }).includes('tbf');
      assert.equal(shaped, limits, 'bandwidth');
      await lab.removePod(pod);
      assert.doesNotMatch(execFileSync('tc', ['qdisc', 'show'], { encoding: 'utf8' }), /tbf/);
    });
  }

  test('crictl.yaml: crictl speaks to Berth by it, without a word of complaint', {
    skip: 'missing' in crictl ? crictl.missing : false,
  }, () => {
    const config = join(lab.berthd.root, 'crictl.yaml');
    const text = readFileSync(join(deploy, 'crictl.yaml'), 'utf8');
    writeFileSync(config, text.replaceAll('unix:///run/berth/berth.sock', lab.berthd.endpoint));
    const program = 'path' in crictl ? crictl.path : '';
    const said = execFileSync(
      'sh',
      ['-c', `"$0" --config "$1" version 2>&1 && "$0" --config "$1" images 2>&1`, program, config],
      {
        encoding: 'utf8',
        env: { PATH: process.env['PATH'] },
        timeout: 60_000,
      },
    );
    assert.match(said, /RuntimeName: {2}berth/);
    assert.match(said, /example\.com\/busybox/);
    assert.doesNotMatch(said, /level=|deprecated|warn/i);
  });
});

async function page(ip: string, port: number): Promise<string> {
  const host = ip.includes(':') ? `[${ip}]` : ip;
  const giveUpAt = Date.now() + SOON_MS;
  for (;;) {
    try {
      return await (await fetch(`http://${host}:${port}/`, { signal: AbortSignal.timeout(5000) })).text();
    } catch (err) {
      // The server in the pod may not listen yet; each try takes a moment of its own.
      if (Date.now() > giveUpAt) throw err;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
