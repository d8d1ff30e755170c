/** Networks that berthd has ready while pods come one after the other, by the real plugins. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import Database from 'better-sqlite3';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import type { PodSandboxConfig } from '../../proto/gen/cri/api.ts';
import { childPids } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { readLinks } from '../harness/machine-state.ts';
import { dropRules } from '../harness/packet-rules.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { bridgeList } from '../harness/test-network.ts';

const BERTH = join(import.meta.dirname, '../../bin/berth');
const LIMIT = 2;
/** More than it takes to make them. */
const READY_MS = 5000;

suite('spare networks', { timeout: 900_000 }, () => {
  let lab: PodLab;

  before(async () => {
    lab = await PodLab.start({ spareNetworks: LIMIT, config: '[metrics]\nlisten = "127.0.0.1:0"' });
  });
  afterEach(async (t) => {
    // What it has ready goes when it stops; the next test begins with none.
    await lab.berthd.end('SIGTERM');
    lab.berthd.useNetwork();
    await lab.berthd.start();
    await lab.afterTest(t);
    deleteBridge();
  });
  after(async () => await lab.close());

  const addresses = (): readonly string[] => lab.berthd.traces().addresses ?? [];
  // Others may have left some of theirs on the machine.
  const bridgePorts = (): string[] => readdirSync(`/sys/class/net/${lab.berthd.network.bridge}/brif`);
  const isReady = async (): Promise<boolean> => /^berth_cni_spare_networks 2$/m.test(await lab.berthd.metrics());

  /** Pods that come one after the other, and the addresses that are ready for others then. */
  async function comeTogether(count = LIMIT + 1): Promise<{ pods: string[]; spares: string[] }> {
    const pods: string[] = [];
    while (pods.length < count) pods.push(await lab.runPod());
    await eventually('networks are ready', async () => (await isReady()) || undefined, READY_MS).catch(async () => {
      // The first of them may have come too long ago, on a machine that does much else.
      pods.push(await lab.runPod(), await lab.runPod());
      await eventually('networks are ready', async () => (await isReady()) || undefined);
    });
    const taken = await Promise.all(pods.map((pod) => lab.ipOf(pod)));
    const spares = addresses().filter((ip) => !taken.includes(ip));
    assert.equal(spares.length, LIMIT);
    return { pods, spares };
  }

  test('a pod takes one, and has all that others have', async () => {
    const { pods, spares } = await comeTogether();
    const config = lab.podConfig({ hostname: 'spared' });
    const pod = await lab.runPod(config);
    const ip = await lab.ipOf(pod);
    assert.ok(spares.includes(ip), `${ip} of ${spares}`);
    const show = 'hostname; ip -o addr show up | grep -o "inet [0-9./]*"; ip route | grep -c default; cat /etc/hosts';
    const [first = ''] = pods;
    const own = `${show}; ping -c 1 -W 5 ${await lab.ipOf(first)} > /dev/null && echo reached`;
    const lines = (await lab.output(pod, { command: ['sh', '-c', own] })).split('\n');
    for (const line of ['spared', 'inet 127.0.0.1/8', `inet ${ip}/24`, '1', `${ip}\tspared`, 'reached'])
      assert.ok(lines.includes(line), `${line} in ${lines.join('\n')}`);
    assert.deepEqual(await lab.berthd.call(AdminService.checkPodNetwork, { podSandboxId: pod }), {
      checked: true,
      problem: '',
    });
    // What is kept for DEL tells whose it is.
    assert.match(attachmentOf(pod), new RegExp(`K8S_POD_NAME=${config.metadata?.name};`));
    await lab.removePod(pod);
    assert.ok(!addresses().includes(ip));
  });

  test('one pod alone has none made', async () => {
    await lab.runPod();
    assert.equal(addresses().length, 1);
    await lab.runPod();
    await eventually('one is made for the next', () => addresses().length === 3 || undefined);
  });

  test('many pods at once each get an address of their own', async () => {
    await comeTogether();
    const pods = await Promise.all(Array.from({ length: 8 }, () => lab.runPod()));
    const ips = await Promise.all(pods.map((pod) => lab.ipOf(pod)));
    assert.equal(new Set(ips).size, 8);
    await Promise.all(pods.map((pod) => lab.removePod(pod)));
    assert.ok(ips.every((ip) => !addresses().includes(ip)));
  });

  test('a pod that wants more of its network takes none', async () => {
    const { spares } = await comeTogether();
    const cases: readonly (readonly [string, PodSandboxConfig])[] = [
      ['a port of the host', lab.podConfig({ portMappings: [{ containerPort: 80, hostPort: 34_567 }] })],
      ['a sysctl of its network', lab.podConfig({ linux: { sysctls: { 'net.ipv4.conf.default.forwarding': '1' } } })],
    ];
    for (const [what, config] of cases) {
      const ip = await lab.ipOf(await lab.runPod(config));
      assert.ok(ip !== '' && !spares.includes(ip), `${what}: ${ip} of ${spares}`);
    }
    assert.ok(spares.every((ip) => addresses().includes(ip)));
  });

  test('one whose bridge has been deleted is not used', async () => {
    const { spares, pods } = await comeTogether();
    for (const pod of pods) await lab.removePod(pod);
    deleteBridge();
    const pod = await lab.runPod();
    assert.ok(!spares.includes(await lab.ipOf(pod)));
    assert.ok(bridgePorts().length > 0);
    await eventually('the others are given back', () => spares.every((ip) => !addresses().includes(ip)) || undefined);
  });

  test('one of another configuration is not used', async () => {
    const { spares } = await comeTogether();
    await changeNetwork((list) => list.replace('"isGateway"', '"mtu":1300,"isGateway"'));
    const pod = await lab.runPod();
    assert.match(await lab.output(pod, { command: ['ip', 'link', 'show', 'eth0'] }), /mtu 1300/);
    await eventually('the others are given back', () => spares.every((ip) => !addresses().includes(ip)) || undefined);
  });

  test('they are no reason for a pod to find no address', async () => {
    const { subnet } = lab.berthd.network;
    // Six addresses, of which the bridge has one.
    await changeNetwork((list) => list.replace(subnet, subnet.replace('/24', '/29')));
    const { spares } = await comeTogether(3);
    assert.equal(addresses().length, 5);
    const config = lab.podConfig({ portMappings: [{ containerPort: 80, hostPort: 34_568 }] });
    assert.ok(spares.includes(await lab.ipOf(await lab.runPod(config))));
  });

  test('a pod that fails with one gives it back', async () => {
    const { spares } = await comeTogether();
    const before = addresses().length;
    const config = lab.podConfig({ linux: { sysctls: { 'kernel.shmmax': 'much' } } });
    await assert.rejects(lab.runPod(config), /kernel\.shmmax/);
    const left = spares.filter((ip) => addresses().includes(ip));
    assert.ok(left.length < spares.length, 'it had taken none');
    await eventually('another is made', () => addresses().length === before || undefined);
    assert.equal(bridgePorts().length, before);
  });

  test('after a kill they are given back, without a word about lost pods', async () => {
    const { pods, spares } = await comeTogether();
    const taker = await lab.runPod();
    const ip = await lab.ipOf(taker);
    assert.ok(spares.includes(ip));
    await lab.berthd.end('SIGKILL');
    const told = doctorWithoutBerthd();
    assert.match(told, /networks for pods to come/);
    assert.doesNotMatch(told, /no record knows|networks of pods that are gone/);
    const logBefore = lab.berthd.wholeLog().length;
    await lab.berthd.start();
    const left = spares.filter((spare) => spare !== ip);
    await eventually('they are gone', () => left.every((spare) => !addresses().includes(spare)) || undefined);
    assert.equal(await lab.ipOf(taker), ip);
    assert.ok(addresses().includes(ip));
    assert.doesNotMatch(lab.berthd.wholeLog().slice(logBefore), /does not know|pod that is gone/);
    await eventually('no folder is left of them', () => sandboxFolders().length === pods.length + 1 || undefined);
    await lab.output(taker, { command: ['sh', '-c', 'ip addr show eth0 up | grep -q inet'] });
  });

  function doctorWithoutBerthd(): string {
    const args = ['--socket', lab.berthd.endpoint, 'doctor', '--config', join(lab.berthd.root, 'berth.toml')];
    return spawnSync(BERTH, args, { encoding: 'utf8', timeout: 100_000 }).stdout;
  }

  test('berth doctor finds nothing wrong with them', async () => {
    const { spares } = await comeTogether();
    const { findings } = await lab.berthd.call(AdminService.doctor, { fix: false });
    const texts = findings.map(({ subject, message }) => `${subject}: ${message}`);
    assert.deepEqual(
      texts.filter((text) => /orphan|no record|gone|plugins still hold/.test(text)),
      [],
    );
    assert.ok(spares.every((ip) => addresses().includes(ip)));
  });

  test('a stop is not kept waiting by a plugin that hangs', async () => {
    const [plugin, hang] = [join(lab.berthd.plugins, 'bridge'), join(lab.berthd.root, 'hang')];
    await lab.berthd.end('SIGTERM');
    const script = `[ "$CNI_COMMAND" = ADD ] && [ -e ${hang} ] && exec sleep 1000\nexec /usr/lib/cni/bridge\n`;
    writeFileSync(plugin, `#!/bin/sh\n${script}`, { mode: 0o755 });
    await lab.berthd.start();
    try {
      await comeTogether();
      writeFileSync(hang, '');
      const pods = Array.from({ length: LIMIT + 2 }, () => lab.runPod().catch(() => ''));
      await eventually('a plugin hangs', () => childPids(lab.berthd.pid).some(isSleep) || undefined);
      const startedMs = performance.now();
      await lab.berthd.end('SIGTERM');
      assert.ok(performance.now() - startedMs < patient(10_000), 'it took too long');
      await Promise.all(pods);
    } finally {
      await lab.berthd.end('SIGTERM');
      for (const file of [hang, plugin]) rmSync(file, { force: true });
      await lab.berthd.start();
    }
  });

  test('a state folder that outlives a reboot leaves no address behind', async () => {
    const { pods, spares } = await comeTogether();
    for (const pod of pods) await lab.removePod(pod);
    await lab.berthd.end('SIGKILL');
    const held = addresses();
    assert.ok(spares.some((ip) => held.includes(ip)));
    // What a reboot leaves of a pin is its file.
    for (const id of sandboxFolders()) {
      execFileSync('umount', [join(lab.berthd.state, 'sandboxes', id, 'ns/net')]);
      dropRules(id);
    }
    const database = new Database(join(lab.berthd.root, 'berth.db'));
    database.prepare("UPDATE facts SET value = 'another', row_sum = NULL WHERE name = 'boot id'").run();
    database.close();
    await lab.berthd.start();
    await eventually('they are given back', () => addresses().length === 0 || undefined);
    await eventually('no folder is left', () => sandboxFolders().length === 0 || undefined);
    assert.doesNotMatch(lab.berthd.log(), /could not be settled|could not be given back/);
  });

  test('a stop gives them back', async () => {
    const { pods, spares } = await comeTogether();
    await lab.berthd.end('SIGTERM');
    assert.ok(spares.every((ip) => !addresses().includes(ip)));
    assert.equal(addresses().length, pods.length);
    assert.equal(sandboxFolders().length, pods.length);
    await lab.berthd.start();
  });

  function deleteBridge(): void {
    const { bridge } = lab.berthd.network;
    if (readLinks().includes(bridge)) execFileSync('ip', ['link', 'delete', bridge]);
  }

  async function changeNetwork(change: (list: string) => string): Promise<void> {
    const read = lab.berthd.logged('pods get this CNI network', 1);
    const list = JSON.stringify(bridgeList(lab.berthd.network, join(lab.berthd.root, 'addresses')));
    writeFileSync(join(lab.berthd.networks, '10-test.conflist'), change(list));
    await read;
  }

  function isSleep(pid: number): boolean {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8') === 'sleep\n';
    } catch {
      return false;
    }
  }

  function sandboxFolders(): string[] {
    return readdirSync(join(lab.berthd.state, 'sandboxes'));
  }

  function attachmentOf(pod: string): string {
    return readFileSync(join(lab.berthd.root, 'cni/results', `berth-test-${pod}-eth0.json`), 'utf8');
  }
});
