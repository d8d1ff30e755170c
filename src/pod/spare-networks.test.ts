import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { raceSignal } from '../base/deadline.ts';
import { silentLogger } from '../base/log.ts';
import type { PodNetwork, SpareAttachment } from '../cni/cni.ts';
import { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { SpareNetworks } from './spare-networks.ts';

const LIMIT = 4;
const pod: PodNetwork = { pod: { namespace: 'n', name: 'p', uid: 'u' }, portMappings: [], annotations: {} };
const never = new AbortController().signal;

let folder: string;
let nowMs: number;
let networks: SpareNetworks;
/** What plugins hold. */
let attached: Set<string>;
/** Where makers stand until a test lets them go. */
let gates: PromiseWithResolvers<void>[];
let bad: Set<string>;
let security: { defaultSysctls: DefaultSysctls };
let claimFails: boolean;

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] });
  folder = mkdtempSync(join(tmpdir(), 'berth-spares-'));
  [nowMs, attached, gates, bad, claimFails] = [0, new Set(), [], new Set(), false];
  security = { defaultSysctls: new DefaultSysctls([], silentLogger) };
  networks = new SpareNetworks({
    limit: LIMIT,
    stateDir: join(folder, 'state'),
    sandboxDir: join(folder, 'files'),
    clock: { monotonicMs: () => nowMs },
    log: silentLogger,
    security,
    namespaces: { makeNetwork: async ({ networkIn }) => join(networkIn, 'net') },
    cni: {
      canSpare: true,
      canSpareFor: ({ portMappings }) => portMappings.length === 0,
      async addSpare(key, signal): Promise<SpareAttachment> {
        attached.add(key.containerId);
        const gate = Promise.withResolvers<void>();
        gates.push(gate);
        await raceSignal(gate.promise, signal);
        return { ...key, links: new Map() };
      },
      isGood: ({ containerId }) => !bad.has(containerId),
      claim: () => {
        if (claimFails) throw new Error('the disk is full');
        return { network: 'pods', ips: [], interfaces: [] };
      },
      release: async ({ containerId }) => void attached.delete(containerId),
      spareIds: () => ['left-1', 'left-2'],
    },
  });
});
afterEach(async () => {
  await networks.close();
  mock.timers.reset();
  assert.deepEqual([...attached], taken, 'only pods hold a network');
  taken = [];
  rmSync(folder, { recursive: true });
});

/** The ids that pods have taken. */
let taken: string[] = [];

/** A pod comes, without waiting for what it gets. */
function come(wanted = pod, maySpare = true): Promise<string | undefined> {
  return networks.take(wanted, maySpare).then((network) => {
    if (network) taken.push(network.id);
    return network?.id;
  });
}

/** Lets the plugins end that are at work now. */
async function finish(count = gates.length): Promise<void> {
  for (const gate of gates.splice(0, count)) gate.resolve();
  await settle();
}

/** All that needs no timer has happened. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

async function readySome(count: number): Promise<void> {
  for (let i = 0; i <= count; i += 1) await come(pod, false);
  while (networks.ready < count) {
    await settle();
    await finish();
  }
}

test('one pod alone has none made, two have one, and more never more than the limit', async () => {
  await come();
  assert.equal(gates.length, 0);
  await come(pod, false);
  assert.equal(gates.length, 1);
  for (let i = 0; i < 10; i += 1) await come(pod, false);
  await readySome(LIMIT);
  assert.deepEqual([networks.ready, gates.length, networks.ids().length], [LIMIT, 0, LIMIT]);
});

test('a pod takes the oldest, and another one is made a moment later', async () => {
  await readySome(LIMIT);
  const [oldest] = networks.ids();
  assert.equal(await come(), oldest);
  await settle();
  assert.equal(gates.length, 0);
  mock.timers.tick(50);
  await settle();
  assert.equal(gates.length, 1);
  await finish();
  assert.equal(networks.ready, LIMIT);
});

test('pods wait for those that are being made, each for one of its own', async () => {
  await come();
  await come(pod, false);
  await settle();
  assert.equal(gates.length, 1);
  const [first, second] = [come(), come()];
  await settle();
  assert.equal(gates.length, 2, 'no more are made at once');
  assert.equal(await come(), undefined, 'there is none that nobody waits for');
  await finish(2);
  const ids = await Promise.all([first, second]);
  assert.equal(new Set(ids.filter((id) => id !== undefined)).size, 2);
});

test('a pod that waits for one that fails is told at once, and none is made for a while', async () => {
  await come();
  await come(pod, false);
  await settle();
  const waiting = come();
  gates.shift()?.reject(new Error('no address is left'));
  assert.equal(await waiting, undefined);
  await settle();
  for (const gate of gates.splice(0)) gate.reject(new Error('no address is left'));
  await settle();
  await come();
  assert.deepEqual([gates.length, attached.size], [0, 0]);
  nowMs += 60_000;
  await come();
  await come();
  assert.equal(gates.length, 1);
});

test('not for a pod that wants more of its network', async () => {
  await readySome(1);
  assert.equal(await come(pod, false), undefined);
  const mapping = { protocol: 'tcp', containerPort: 80, hostPort: 80, hostIp: '' } as const;
  assert.equal(await come({ ...pod, portMappings: [mapping] }), undefined);
});

test('what is good no more is given back and not used', async () => {
  await readySome(2);
  const [first = '', second = ''] = networks.ids();
  bad.add(first);
  assert.equal(await come(), second);
  await settle();
  assert.ok(!attached.has(first));
});

test('nor what was made with other sysctls than pods get now', async () => {
  await readySome(1);
  const before = networks.ids();
  security.defaultSysctls = new DefaultSysctls(['net.ipv4.ip_forward=1'], silentLogger);
  const next = come();
  await settle();
  await finish();
  assert.ok(!before.includes((await next) as never));
  assert.ok(before.every((id) => !attached.has(id)));
});

test('all are given back when no pod has come for a while', async () => {
  await readySome(2);
  await come(pod, false);
  mock.timers.tick(29_999);
  await settle();
  assert.deepEqual([networks.ready, gates.length], [2, 1], 'one is still being made');
  mock.timers.tick(1);
  await finish();
  while (networks.ids().length > 0) await settle();
  assert.equal(attached.size, 0);
  assert.deepEqual(
    ['state/sandboxes', 'files'].flatMap((name) => readdirSync(join(folder, name))),
    [],
  );
});

test('pods that are attached by themselves keep others from being made', async () => {
  await come();
  const attaching = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const done = attaching.map((one) => networks.attaching(() => one.promise));
  await come(pod, false);
  assert.equal(gates.length, 0);
  for (const one of attaching) one.resolve();
  await Promise.all(done);
  assert.equal(gates.length, 1);
});

test('for a pod that finds no address all are given back, also those that come meanwhile', async () => {
  await readySome(2);
  await come(pod, false);
  mock.timers.tick(50);
  await settle();
  assert.ok(gates.length > 0);
  const given = networks.giveBack(never);
  await settle();
  await finish();
  assert.equal(await given, true);
  assert.equal(attached.size, 0);
  assert.equal(await networks.giveBack(never), false);
});

test('what cannot be claimed is given back', async () => {
  await readySome(1);
  claimFails = true;
  await assert.rejects(come(), /the disk is full/);
  await settle();
  assert.equal(networks.ready, 0);
});

test('a lower limit holds at once, and none means none', async () => {
  await readySome(LIMIT);
  networks.follow(1);
  await settle();
  assert.equal(attached.size, 1);
  networks.follow(0);
  await settle();
  assert.equal(await come(), undefined);
  await come();
  assert.deepEqual([gates.length, attached.size], [0, 0]);
});

test('a stop ends what is being made and gives all back', async () => {
  await readySome(2);
  await come(pod, false);
  mock.timers.tick(50);
  await settle();
  const waiting = [come(), come(), come()];
  await networks.close();
  await Promise.all(waiting);
  taken = taken.filter((id) => attached.has(id));
  assert.deepEqual(networks.ids(), []);
});

test('what an earlier berthd had ready is given back', async () => {
  attached.add('left-1');
  await networks.discardLeft();
  assert.equal(attached.size, 0);
  assert.equal(existsSync(join(folder, 'state/sandboxes/left-1')), false);
});
