import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { systemClock } from '../../src/base/clock.ts';
import { BerthError } from '../../src/base/errors.ts';
import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { Cni, type CniAttachment } from '../../src/cni/cni.ts';
import { CniError } from '../../src/cni/cni-error.ts';
import { Processes } from '../../src/proc/processes.ts';
import { childPids } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { holdNetns, inNetns, pidsInNetns, releaseNetns } from '../harness/held-netns.ts';
import { readLinks } from '../harness/machine-state.ts';

// Everything that this file makes on the host has this in its name, or lies in this subnet.
const mark = `bcni${process.pid % 10_000}`;
const subnet = '10.213.77';
const subnet6 = 'fd00:2137:7::/64';
const binDir = '/usr/lib/cni';
const never = new AbortController().signal;
const skip = existsSync(join(binDir, 'bridge'))
  ? false
  : `no CNI plugins in ${binDir} (Debian: containernetworking-plugins)`;

let base: string;
let processes: Processes;
let cni: Cni;
let linksBefore: string[];
let rulesBefore: string[];
let hostPortChains: readonly string[];
let ipv6Forwarding: string;
const ipv6ForwardingFile = '/proc/sys/net/ipv6/conf/all/forwarding';
const namespaces = new Set<string>();

before(() => {
  linksBefore = readLinks();
  rulesBefore = rules();
  hostPortChains = ['iptables', 'ip6tables'].filter((tool) => hasHostPortChains(tool));
  ipv6Forwarding = readFileSync(ipv6ForwardingFile, 'utf8');
});
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'berth-cni-it-'));
  mkdirSync(join(base, 'net.d'));
  processes = new Processes({ log: silentLogger, meter: silentMeter });
});
afterEach(async () => {
  await cni?.close();
  await processes.close();
  for (const file of namespaces) releaseNetns(file);
  namespaces.clear();
  if (readLinks().includes(mark)) execFileSync('ip', ['link', 'del', mark]);
  assert.deepEqual(addresses(), [], 'an address is still reserved');
  rmSync(base, { recursive: true, force: true });
});
after(() => {
  // The bridge plugin turns it on for good, and portmap leaves the chains that hang its rules together.
  writeFileSync(ipv6ForwardingFile, ipv6Forwarding);
  for (const tool of ['iptables', 'ip6tables']) {
    if (!hostPortChains.includes(tool) && hasHostPortChains(tool)) removeHostPortChains(tool);
  }
  // Others may work on this machine too: only what bears our mark counts, and what went away is not ours to judge.
  assert.deepEqual(
    readLinks().filter((link) => !linksBefore.includes(link) && link.startsWith('bcni')),
    [],
  );
  const ours = rules().filter(
    (rule) =>
      !rulesBefore.includes(rule) && (rule.includes(subnet) || rule.includes('fd00:2137:7') || rule.includes(mark)),
  );
  assert.deepEqual(ours, [], 'packet rules are left');
  assert.deepEqual(childPids(), [], 'a child is left');
});

function rules(): string[] {
  return ['iptables-save', 'ip6tables-save']
    .flatMap((tool) => execFileSync(tool, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n'))
    .filter((line) => line.startsWith('-A'));
}

function natRules(tool: string): string[] {
  return execFileSync(tool, ['-t', 'nat', '-S'], { encoding: 'utf8' }).split('\n');
}

function hasHostPortChains(tool: string): boolean {
  return natRules(tool).some((rule) => rule.startsWith('-N CNI-HOSTPORT'));
}

function removeHostPortChains(tool: string): void {
  const all = natRules(tool);
  // Somebody else's pod has a host port.
  if (all.some((rule) => rule.startsWith('-A CNI-HOSTPORT-DNAT'))) return;
  const nat = (...args: string[]) => execFileSync(tool, ['-t', 'nat', ...args]);
  nat('-D', 'PREROUTING', '-m', 'addrtype', '--dst-type', 'LOCAL', '-j', 'CNI-HOSTPORT-DNAT');
  nat('-D', 'OUTPUT', '-m', 'addrtype', '--dst-type', 'LOCAL', '-j', 'CNI-HOSTPORT-DNAT');
  const comment = ['-m', 'comment', '--comment', 'CNI portfwd requiring masquerade'];
  nat('-D', 'POSTROUTING', ...comment, '-j', 'CNI-HOSTPORT-MASQ');
  for (const name of ['DNAT', 'MASQ', 'SETMARK']) {
    nat('-F', `CNI-HOSTPORT-${name}`);
    nat('-X', `CNI-HOSTPORT-${name}`);
  }
}

function addresses(): string[] {
  const dir = join(base, 'ipam', mark);
  return existsSync(dir) ? readdirSync(dir).filter((name) => /^(10\.213|fd00)/.test(name)) : [];
}

function ipam(): object {
  return {
    type: 'host-local',
    ranges: [[{ subnet: `${subnet}.0/24` }]],
    routes: [{ dst: '0.0.0.0/0' }],
    dataDir: join(base, 'ipam'),
  };
}

function bridge(more: object = {}): object {
  return { type: 'bridge', bridge: mark, isGateway: true, ipMasq: true, hairpinMode: true, ipam: ipam(), ...more };
}

async function start(cniVersion: string, plugins: readonly object[]): Promise<void> {
  writeFileSync(join(base, 'net.d', '10-pods.conflist'), JSON.stringify({ cniVersion, name: mark, plugins }));
  await restart();
}

async function restart(binDirs: readonly string[] = [binDir]): Promise<void> {
  await cni?.close();
  cni = newCni(binDirs);
  await cni.start();
}

function newCni(binDirs: readonly string[], by = processes): Cni {
  return new Cni({
    confDir: join(base, 'net.d'),
    binDirs,
    cacheDir: join(base, 'cache'),
    processes: by,
    log: silentLogger,
    meter: silentMeter,
    clock: systemClock,
  });
}

function makeNetns(id: string): string {
  const file = netnsOf(id);
  holdNetns(file);
  namespaces.add(file);
  return file;
}

function removeNetns(id: string): void {
  releaseNetns(netnsOf(id));
  namespaces.delete(netnsOf(id));
}

function netnsOf(id: string): string {
  return join(base, `netns-${id}`);
}

function inPod(id: string, ...command: string[]): string {
  return inNetns(netnsOf(id), command);
}

function pod(id: string, netns: string, more: Partial<CniAttachment> = {}): CniAttachment {
  return {
    containerId: `${mark}${id}`,
    netns,
    ifName: 'eth0',
    pod: { namespace: 'ns', name: id, uid: `uid-${id}` },
    portMappings: [],
    annotations: {},
    ...more,
  };
}

for (const version of ['0.3.0', '0.3.1', '0.4.0', '1.0.0']) {
  test(`bridge, host-local, portmap, tuning: up, checked, down (CNI ${version})`, { skip }, async () => {
    await start(version, [
      bridge(),
      { type: 'tuning', sysctl: { 'net.ipv4.conf.eth0.arp_filter': '1' } },
      { type: 'portmap', capabilities: { portMappings: true } },
    ]);
    assert.equal((await cni.status(never)).ready, true);
    const a = pod('a', makeNetns('a'));
    const result = await cni.add(a, never);
    const [ip] = result.ips;
    assert.ok(ip?.address.startsWith(`${subnet}.`));
    assert.deepEqual([ip?.prefixLength, ip?.gateway, result.ips.length], [24, `${subnet}.1`, 1]);
    assert.match(inPod('a', 'ip', '-o', 'addr', 'show', 'eth0'), new RegExp(`inet ${ip?.address}/24`));
    assert.match(inPod('a', 'ip', 'link', 'show', 'eth0'), new RegExp(`link/ether ${result.mac}`));
    assert.equal(inPod('a', 'sysctl', '-n', 'net.ipv4.conf.eth0.arp_filter').trim(), '1');
    assert.ok(rules().some((rule) => rule.includes('MASQUERADE') && rule.includes(a.containerId)));
    await cni.check(a, never);
    if (version >= '0.4.0') {
      inPod('a', 'sysctl', '-qw', 'net.ipv4.conf.eth0.arp_filter=0');
      await assert.rejects(cni.check(a, never), { name: 'CniError', verb: 'CHECK', plugin: 'tuning' });
    }
    await cni.del(a, never);
    assert.ok(!inPod('a', 'ip', 'link').includes('eth0'));
    assert.ok(!rules().some((rule) => rule.includes(a.containerId)));
    await cni.del(a, never);
  });
}

test('a page is fetched through a host port, from a pod with two addresses', { skip }, async () => {
  const ranges = [[{ subnet: `${subnet}.0/24` }], [{ subnet: subnet6 }]];
  await start('1.0.0', [
    bridge({ ipam: { ...ipam(), ranges } }),
    { type: 'portmap', capabilities: { portMappings: true } },
  ]);
  const a = pod('a', makeNetns('a'), {
    portMappings: [
      { protocol: 'tcp', containerPort: 80, hostPort: 28_180, hostIp: '' },
      { protocol: 'tcp', containerPort: 81, hostPort: 0, hostIp: '' },
    ],
  });
  const result = await cni.add(a, never);
  assert.deepEqual(
    result.ips.map((ip) => ip.prefixLength),
    [24, 64],
  );
  writeFileSync(join(base, 'index.html'), 'hello from the pod');
  // It returns when the port is open.
  inPod('a', 'busybox', 'httpd', '-p', '80', '-h', base);
  try {
    const page = await fetch(`http://${subnet}.1:28180/`, { signal: AbortSignal.timeout(5000) });
    assert.equal(await page.text(), 'hello from the pod');
  } finally {
    for (const pid of pidsInNetns(netnsOf('a'))) process.kill(pid, 'SIGKILL');
  }
  await cni.del(a, never);
  assert.ok(!rules().some((rule) => rule.includes('28180')));
  await cni.del(a, never);
});

test('many pods at once: each has its own address, and they reach each other', { skip }, async () => {
  await start('1.0.0', [bridge()]);
  const pods = ['a', 'b', 'c', 'd', 'e'].map((id) => pod(id, makeNetns(id)));
  const results = await Promise.all(pods.map((one) => cni.add(one, never)));
  const ips = results.map((result) => result.ips[0]?.address ?? '');
  assert.equal(new Set(ips).size, 5);
  assert.deepEqual(addresses().sort(), ips.toSorted());
  // The other side's neighbour answers for an address that is up.
  const hello = inPod('a', 'busybox', 'arping', '-c', '1', '-w', '5', '-I', 'eth0', ips[1] ?? '');
  assert.match(hello, /Received 1 response/);
  await Promise.all(pods.map((one) => cni.del(one, never)));
  assert.deepEqual(addresses(), []);
});

test('bandwidth limits come from the annotations', { skip }, async (t) => {
  await start('1.0.0', [bridge(), { type: 'bandwidth', capabilities: { bandwidth: true } }]);
  const a = pod('a', makeNetns('a'), {
    annotations: { 'kubernetes.io/ingress-bandwidth': '10M', 'kubernetes.io/egress-bandwidth': '1M' },
  });
  try {
    const result = await cni.add(a, never);
    const host = result.interfaces.find((one) => one.name.startsWith('veth'));
    const shaped = execFileSync('tc', ['qdisc', 'show', 'dev', host?.name ?? ''], { encoding: 'utf8' });
    assert.match(shaped, /tbf .*rate 10Mbit burst 1250000b/);
  } catch (err) {
    // A kernel without the token bucket or the ifb device cannot shape; then the failed ADD must have left nothing.
    if (!(err instanceof CniError)) throw err;
    t.diagnostic(`this kernel cannot shape traffic: ${err.message}`);
    assert.deepEqual(addresses(), []);
    assert.deepEqual(readdirSync(join(base, 'cache', 'results')), []);
  }
  await cni.del(a, never);
});

test('ptp as a single plugin file, with addresses that were asked for', { skip }, async () => {
  const single = {
    cniVersion: '0.4.0',
    name: mark,
    type: 'ptp',
    ipMasq: false,
    ipam: ipam(),
    capabilities: { ips: true },
  };
  writeFileSync(join(base, 'net.d', '20-ptp.conf'), JSON.stringify(single));
  await restart();
  const a = pod('a', makeNetns('a'), { ips: [`${subnet}.99`] });
  const result = await cni.add(a, never);
  assert.equal(result.ips[0]?.address, `${subnet}.99`);
  await cni.check(a, never);
  await cni.del(a, never);
});

// Without the namespace, bridge 1.1.1 does not find the masquerade rules that it made: those two go without.
test('DEL after a restart, without the namespace and the configuration, frees address and rules', {
  skip,
}, async () => {
  await start('1.0.0', [bridge({ ipMasq: false }), { type: 'portmap', capabilities: { portMappings: true } }]);
  const a = pod('a', makeNetns('a'), {
    portMappings: [{ protocol: 'udp', containerPort: 53, hostPort: 28_153, hostIp: '' }],
  });
  await cni.add(a, never);
  removeNetns('a');
  rmSync(join(base, 'net.d'), { recursive: true });
  await restart();
  assert.equal(addresses().length, 1);
  await cni.del({ ...a, netns: '', portMappings: [] }, never);
  assert.deepEqual(addresses(), []);
  assert.ok(!rules().some((rule) => rule.includes('28153')));
});

test('GC frees what a lost pod held', { skip }, async () => {
  await start('1.0.0', [bridge({ ipMasq: false })]);
  const a = pod('a', makeNetns('a'));
  const b = pod('b', makeNetns('b'));
  const kept = await cni.add(a, never);
  await cni.add(b, never);
  removeNetns('b');
  await restart();
  await cni.gc([a], never);
  assert.deepEqual(addresses(), [kept.ips[0]?.address]);
  await cni.del(a, never);
});

test('a plugin that fails in the middle of the chain leaves nothing', { skip }, async () => {
  await start('1.0.0', [bridge(), { type: 'tuning', sysctl: { 'net.ipv4.no_such_knob': '1' } }]);
  const a = pod('a', makeNetns('a'));
  await assert.rejects(cni.add(a, never), { name: 'CniError', plugin: 'tuning', verb: 'ADD', network: mark });
  assert.deepEqual(addresses(), []);
  assert.ok(!inPod('a', 'ip', 'link').includes('eth0'));
  assert.ok(!rules().some((rule) => rule.includes(a.containerId)));
});

test('a subnet that is used up is told in the words of the plugin', { skip }, async () => {
  const tiny = {
    ...ipam(),
    ranges: [[{ subnet: `${subnet}.0/24`, rangeStart: `${subnet}.2`, rangeEnd: `${subnet}.2` }]],
  };
  await start('1.0.0', [bridge({ ipam: tiny })]);
  const a = pod('a', makeNetns('a'));
  await cni.add(a, never);
  await assert.rejects(cni.add(pod('b', makeNetns('b')), never), {
    name: 'CniError',
    message: /no IP addresses available/,
  });
  await cni.del(a, never);
});

/** A network whose plugin leaves a file half written for a moment, as host-local does; returns that file. */
function writeHalvingNetwork(verb: 'ADD' | 'DEL'): string {
  const file = join(base, 'half');
  const ready = '{"cniVersion":"1.0.0"}';
  const script = `#!/bin/sh\necho '${ready}'\n[ $CNI_COMMAND = ${verb} ] || exit 0\n: > ${file}\nsleep 0.5\necho whole > ${file}\n`;
  mkdirSync(join(base, 'bin'));
  writeFileSync(join(base, 'bin', 'halving'), script, { mode: 0o755 });
  writeFileSync(
    join(base, 'net.d', '10-halving.conflist'),
    JSON.stringify({ cniVersion: '1.0.0', name: mark, plugins: [{ type: 'halving' }] }),
  );
  return file;
}

test('an ADD that nobody waits for any more is not killed in the middle', { skip }, async () => {
  const file = writeHalvingNetwork('ADD');
  await restart([join(base, 'bin')]);
  const gone = new AbortController();
  const adding = cni.add(pod('a', makeNetns('a')), gone.signal);
  await eventually('an ADD in the middle', () => existsSync(file) || undefined);
  gone.abort(new BerthError('cancelled', 'the client has left'));
  await assert.rejects(adding, { kind: 'cancelled' });
  assert.equal(readFileSync(file, 'utf8'), 'whole\n');
  rmSync(file);

  const stopped = cni.add(pod('b', makeNetns('b')), never);
  await eventually('an ADD in the middle', () => existsSync(file) || undefined);
  await Promise.all([assert.rejects(stopped, { kind: 'cancelled' }), cni.close()]);
  assert.equal(readFileSync(file, 'utf8'), 'whole\n');
});

test('nor is a DEL', { skip }, async () => {
  const file = writeHalvingNetwork('DEL');
  await restart([join(base, 'bin')]);
  const attachment = pod('a', makeNetns('a'));
  await cni.add(attachment, never);
  const gone = new AbortController();
  const deleting = cni.del(attachment, gone.signal);
  await eventually('a DEL in the middle', () => existsSync(file) || undefined);
  gone.abort(new BerthError('cancelled', 'berthd is stopping'));
  await assert.rejects(deleting, { kind: 'cancelled' });
  assert.equal(readFileSync(file, 'utf8'), 'whole\n');
});

test('nor is what an earlier berthd has left at work', { skip }, async () => {
  const file = writeHalvingNetwork('ADD');
  await restart([join(base, 'bin')]);
  const killed = cni;
  const adding = killed.add(pod('a', makeNetns('a')), never);
  await eventually('an ADD in the middle', () => existsSync(file) || undefined);
  cni = newCni([join(base, 'bin')]);
  await cni.start();
  assert.equal(readFileSync(file, 'utf8'), 'whole\n');
  await adding;
  await killed.close();
});

test('nor when the berthd that waits for it is stopped', { skip }, async () => {
  const file = writeHalvingNetwork('ADD');
  await restart([join(base, 'bin')]);
  const adding = cni.add(pod('a', makeNetns('a')), never);
  await eventually('an ADD in the middle', () => existsSync(file) || undefined);
  const others = new Processes({ log: silentLogger, meter: silentMeter });
  const next = newCni([join(base, 'bin')], others);
  await Promise.all([assert.rejects(next.start(), { kind: 'cancelled' }), others.close()]);
  await next.close();
  await adding;
  assert.equal(readFileSync(file, 'utf8'), 'whole\n');
});

test('plugins give way to runtimes, those of pods that go most', {
  skip: skip || (existsSync('/proc/self/autogroup') ? false : 'this kernel shares nothing out among sessions'),
}, async () => {
  const said = join(base, 'said');
  const script = `#!/bin/sh\nuntil grep -q 'nice [1-9]' /proc/self/autogroup; do sleep 0.01; done\necho "$CNI_COMMAND $(cat /proc/self/autogroup)" >> ${said}\necho '{"cniVersion":"1.0.0"}'\n`;
  mkdirSync(join(base, 'bin'));
  writeFileSync(join(base, 'bin', 'telling'), script, { mode: 0o755 });
  writeFileSync(
    join(base, 'net.d', '10-own.conflist'),
    JSON.stringify({ cniVersion: '1.0.0', name: 'own', plugins: [{ type: 'telling' }] }),
  );
  await restart([join(base, 'bin')]);
  const attachment = pod('a', makeNetns('a'));
  await cni.add(attachment, never);
  await cni.del(attachment, never);
  const lines = readFileSync(said, 'utf8')
    .replaceAll(/\/autogroup-\d+ /g, '')
    .trim()
    .split('\n');
  assert.deepEqual(lines, ['ADD nice 5', 'DEL nice 10']);
});

test('a plugin that hangs is killed with its children', { skip }, async () => {
  const slow = join(base, 'bin');
  mkdirSync(slow);
  writeFileSync(join(slow, 'slow'), '#!/bin/sh\nsleep 60 & wait\n', { mode: 0o755 });
  writeFileSync(
    join(base, 'net.d', '10-slow.conflist'),
    JSON.stringify({ cniVersion: '1.0.0', name: mark, plugins: [{ type: 'slow' }] }),
  );
  cni = new Cni({
    confDir: join(base, 'net.d'),
    binDirs: [slow],
    cacheDir: join(base, 'cache'),
    processes,
    log: silentLogger,
    meter: silentMeter,
    clock: systemClock,
    times: { verbMs: 200, delMs: 200 },
  });
  await cni.start();
  await assert.rejects(cni.add(pod('a', makeNetns('a')), never), { kind: 'deadline' });
  const left = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line === 'sleep 60');
  assert.deepEqual(left, []);
});
