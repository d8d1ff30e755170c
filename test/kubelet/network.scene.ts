import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, suite, test } from 'node:test';

import { type ContainerFields, container, KubeletLab } from './kubelet-lab.ts';

const SUBNET_6 = 'fd00:be72::/64';
/** A container that answers, and is ready when it does. */
const serving = (port: number, answer: string): ContainerFields => ({
  command: ['sh', '-c', `mkdir -p /tmp/w; echo ${answer} > /tmp/w/index.html; exec httpd -f -p ${port} -h /tmp/w`],
  readinessProbe: { httpGet: { path: '/index.html', port }, periodSeconds: 1 },
});
const HAS_IP_6 = networkInterfaces()['lo']?.some(({ family }) => family === 'IPv6') ?? false;

suite('networks of pods', () => {
  let lab: KubeletLab;

  before(async () => {
    lab = await KubeletLab.start({ config: { resolvConf: '/etc/resolv.conf' } });
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('pods have addresses of the network and reach each other', async () => {
    lab.run('server', [serving(80, 'served')]);
    lab.run('client', [{}]);
    const [server, client] = await Promise.all([lab.ready('server'), lab.ready('client')]);
    const ip = server.status.podIP ?? '';
    assert.ok(lab.berthd.network.owns(ip), ip);
    assert.ok(lab.berthd.network.owns(client.status.podIP ?? ''));
    assert.equal(await lab.output('client', 'wget', '-qO-', `http://${ip}/`), 'served');
    assert.match(await lab.output('client', 'cat', '/etc/hosts'), new RegExp(`${client.status.podIP}\\s+client`));
    assert.equal(await lab.output('client', 'hostname'), client.metadata.name);
    for (const name of ['server', 'client']) lab.drop(name);
  });

  test('DNS: of the cluster, of the machine, of its own, and more hosts', async () => {
    lab.run('cluster', [{}], { dnsPolicy: 'ClusterFirst' });
    lab.run('machine', [{}], { dnsPolicy: 'Default' });
    lab.run('own', [{}], {
      dnsPolicy: 'None',
      dnsConfig: {
        nameservers: ['192.0.2.7'],
        searches: ['a.test', 'b.test'],
        options: [{ name: 'ndots', value: '3' }],
      },
      hostAliases: [{ ip: '192.0.2.1', hostnames: ['far.test'] }],
    });
    await Promise.all(['cluster', 'machine', 'own'].map((name) => lab.ready(name)));
    const cluster = await lab.output('cluster', 'cat', '/etc/resolv.conf');
    assert.match(cluster, /^search default\.svc\.cluster\.test svc\.cluster\.test cluster\.test/m);
    assert.match(cluster, /^nameserver 10\.96\.0\.10$/m);
    assert.match(cluster, /^options ndots:5$/m);
    const machine = readFileSync('/etc/resolv.conf', 'utf8').match(/^nameserver .*$/gm) ?? [];
    const inside = (await lab.output('machine', 'cat', '/etc/resolv.conf')).match(/^nameserver .*$/gm) ?? [];
    assert.deepEqual(inside, machine.slice(0, 3));
    const own = await lab.output('own', 'cat', '/etc/resolv.conf');
    assert.deepEqual(own.split('\n'), ['search a.test b.test', 'nameserver 192.0.2.7', 'options ndots:3']);
    assert.match(await lab.output('own', 'cat', '/etc/hosts'), /192\.0\.2\.1\s+far\.test/);
    for (const name of ['cluster', 'machine', 'own']) lab.drop(name);
  });

  test('a port of the machine leads to the pod, and to nothing when the pod has gone', async () => {
    const ports = [{ containerPort: 80, hostPort: 28_080, protocol: 'TCP' }];
    lab.run('ported', [{ ...serving(80, 'through the port'), ports }]);
    await lab.ready('ported');
    const address = gateway(lab);
    const ask = async (): Promise<string> =>
      await (await fetch(`http://${address}:28080/`, { signal: AbortSignal.timeout(3000) })).text();
    assert.equal(await ask(), 'through the port\n');
    await lab.remove('ported');
    await assert.rejects(ask());
  });

  test("a pod in the machine's network has its address and name", async () => {
    lab.run('hosted', [serving(28_081, 'hosted')], { hostNetwork: true });
    const pod = await lab.ready('hosted');
    assert.equal(await (await fetch('http://127.0.0.1:28081/')).text(), 'hosted\n');
    const own = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address));
    if (pod.status.podIP !== undefined) assert.ok(own.includes(pod.status.podIP), pod.status.podIP);
    assert.equal(await lab.output('hosted', 'hostname'), hostname());
    assert.equal(container(pod)?.restartCount, 0);
    lab.drop('hosted');
  });

  test('a safe sysctl of a pod', async () => {
    lab.run('tuned', [{}], {
      securityContext: { sysctls: [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '81' }] },
    });
    await lab.ready('tuned');
    assert.equal(await lab.output('tuned', 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start'), '81');
    lab.drop('tuned');
  });

  test('addresses of both families', { skip: HAS_IP_6 ? false : 'the kernel has no IPv6' }, async () => {
    const file = join(lab.berthd.networks, '10-test.conflist');
    const list = JSON.parse(readFileSync(file, 'utf8')) as {
      plugins: { ipam?: { ranges: object[][]; routes: object[] } }[];
    };
    list.plugins[0]?.ipam?.ranges.push([{ subnet: SUBNET_6 }]);
    list.plugins[0]?.ipam?.routes.push({ dst: '::/0' });
    const taken = lab.berthd.logged('"msg":"pods get this CNI network"', 1);
    writeFileSync(file, JSON.stringify(list));
    await taken;
    lab.run('dual', [serving(80, 'dual')]);
    lab.run('asking', [{}]);
    const [dual] = await Promise.all([lab.ready('dual'), lab.ready('asking')]);
    const ips = dual.status.podIPs?.map(({ ip }) => ip) ?? [];
    assert.equal(ips.length, 2, `its addresses are ${ips}`);
    assert.match(ips[1] ?? '', /^fd00:be72::/);
    assert.equal(dual.status.podIP, ips[0]);
    assert.equal(await lab.output('asking', 'wget', '-qO-', `http://[${ips[1]}]/`), 'dual');
    for (const name of ['dual', 'asking']) lab.drop(name);
  });
});

/** The machine's address in the pods' network. */
function gateway(lab: KubeletLab): string {
  const said = execFileSync('ip', ['-4', '-o', 'address', 'show', 'dev', lab.berthd.network.bridge], {
    encoding: 'utf8',
  });
  return /inet ([\d.]+)\//.exec(said)?.[1] ?? assert.fail(said);
}
