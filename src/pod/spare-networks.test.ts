import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { raceSignal } from '../base/deadline.ts';
import { newSandboxId, type SandboxId } from '../base/ids.ts';
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
/** The ids that pods have taken. */
let taken: string[];
/** Where makers stand until a test lets them go. */
let gates: PromiseWithResolvers<void>[];
let bad: Set<string>;
let security: { defaultSysctls: DefaultSysctls };
let claimFails: boolean;
let isForAll: boolean;
let releaseFails: boolean;
let releasing: number;
let mostReleasing: number;
let tries: number;

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] });
  isForAll = true;
  folder = mkdtempSync(join(tmpdir(), 'berth-spares-'));
  [nowMs, attached, taken, gates, bad] = [0, new Set(), [], [], new Set()];
  [claimFails, releaseFails, releasing, mostReleasing, tries] = [false, false, 0, 0, 0];
  security = { defaultSysctls: new DefaultSysctls([], silentLogger) };
  networks = new SpareNetworks({
    limit: LIMIT,
    shutdown: never,
    stateDir: join(folder, 'state'),
    sandboxDir: join(folder, 'files'),
    clock: { monotonicMs: () => nowMs },
    log: silentLogger,
    security,
    namespaces: { makeNetwork: async ({ networkIn }) => join(networkIn, 'net') },
    cni: {
      canSpare: true,
      canSpareFor: ({ portMappings }) => isForAll && portMappings.length === 0,
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
      async release({ containerId }) {
        releasing += 1;
        tries += 1;
        mostReleasing = Math.max(mostReleasing, releasing);
        await new Promise(setImmediate);
        releasing -= 1;
        if (releaseFails) throw new Error('the plugin fails');
        attached.delete(containerId);
      },
    },
  });
});
afterEach(async () => {
  releaseFails = false;
  await networks.close();
  mock.timers.reset();
  assert.deepEqual([...attached].toSorted(), taken.toSorted(), 'only pods hold a network');
  rmSync(folder, { recursive: true });
});

/** A pod comes, without waiting for what it gets. */
async function come(wanted = pod): Promise<SandboxId | undefined> {
  const network = await networks.take(wanted, never);
  if (network) taken.push(network.id);
  return network?.id;
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

/** Pods come one after the other until so many networks are ready for others: one less than have come. */
async function readySome(count: number): Promise<void> {
  for (let turn = 0; turn < 20 && networks.ready < count; turn += 1) {
    const coming = come();
    await settle();
    await finish();
    await coming;
    await passHeadStart();
    for (let again = 0; again < LIMIT; again += 1) await finish();
  }
  assert.equal(networks.ready, count);
}

/** Others are begun to be made. */
async function passHeadStart(): Promise<void> {
  mock.timers.tick(100);
  await settle();
}

/** What takes the disk a moment has happened; there are no timers here to wait with. */
async function until(happened: () => boolean): Promise<void> {
  for (const giveUpMs = performance.now() + 10_000; !happened() && performance.now() < giveUpMs; ) await settle();
  assert.ok(happened(), happened.toString());
}

async function gone(): Promise<void> {
  await until(() => networks.ids().length === 0);
}

test('one pod alone has none made, two have one, and more never more than the limit', async () => {
  await come();
  await passHeadStart();
  assert.equal(gates.length, 0);
  await come();
  await passHeadStart();
  assert.equal(gates.length, 1);
  await finish();
  for (let i = 0; i < 10; i += 1) {
    await come();
    await passHeadStart();
    await finish();
    await finish();
  }
  await readySome(LIMIT);
  assert.deepEqual([networks.ready, gates.length, networks.ids().length], [LIMIT, 0, LIMIT]);
});

test('a pod takes the oldest, and another one is made a moment later', async () => {
  await readySome(LIMIT);
  const [oldest] = networks.ids();
  assert.equal(await come(), oldest);
  await settle();
  assert.equal(gates.length, 0);
  await passHeadStart();
  assert.equal(gates.length, 1);
  await finish();
  assert.equal(networks.ready, LIMIT);
});

test('none is made beside pods that come all at once and take all', async () => {
  await readySome(LIMIT);
  await Promise.all(Array.from({ length: LIMIT }, () => come()));
  mock.timers.tick(99);
  await settle();
  assert.deepEqual([networks.ready, gates.length], [0, 0]);
  mock.timers.tick(1);
  await settle();
  assert.equal(gates.length, 2);
});

test('once all that have come are up, others are made', async () => {
  await readySome(LIMIT);
  const [first, second] = [await come(), await come()];
  const attached = networks.attaching(newSandboxId(), async () => {});
  assert.ok(first && second);
  await attached;
  networks.noteUp(first);
  networks.noteUp(first);
  mock.timers.tick(20);
  await settle();
  assert.equal(gates.length, 0);
  await passHeadStart();
  await finish(2);
  await passHeadStart();

  const third = await come();
  assert.ok(third);
  networks.noteUp(second);
  mock.timers.tick(20);
  await settle();
  assert.equal(gates.length, 0, 'who was too slow is not waited for');
  networks.noteUp(third);
  mock.timers.tick(20);
  await settle();
  assert.equal(gates.length, 1);
});

test('pods that come one after the other do not put it off for ever', async () => {
  await readySome(LIMIT);
  const first = await come();
  assert.ok(first);
  mock.timers.tick(60);
  networks.noteUp(first);
  mock.timers.tick(5);
  await come();
  mock.timers.tick(34);
  await settle();
  assert.equal(gates.length, 0);
  mock.timers.tick(1);
  await settle();
  assert.equal(gates.length, 2);
});

test('pods wait for those that are being made, each for one of its own', async () => {
  await come();
  await come();
  await passHeadStart();
  assert.equal(gates.length, 1);
  const first = come();
  await passHeadStart();
  const second = come();
  await passHeadStart();
  assert.equal(gates.length, 2, 'no more are made at once');
  assert.equal(await come(), undefined, 'there is none that nobody waits for');
  await finish(2);
  const ids = await Promise.all([first, second]);
  assert.equal(new Set(ids.filter((id) => id !== undefined)).size, 2);
});

test('a pod waits for a second at most, and as long as its client does', async () => {
  await come();
  await come();
  await passHeadStart();
  const waiting = come();
  mock.timers.tick(999);
  await settle();
  mock.timers.tick(1);
  assert.equal(await waiting, undefined);
  const client = new AbortController();
  const left = networks.take(pod, client.signal);
  client.abort();
  assert.equal(await left, undefined);
  await finish();
  // Neither of them is handed one now.
  assert.ok(networks.ready > 0);
});

test('a pod that waits for one that fails is told at once, and none is made for a while', async () => {
  await come();
  await come();
  await passHeadStart();
  const waiting = come();
  gates.shift()?.reject(new Error('no address is left'));
  assert.equal(await waiting, undefined);
  await settle();
  for (const gate of gates.splice(0)) gate.reject(new Error('no address is left'));
  await settle();
  await come();
  await settle();
  assert.deepEqual([gates.length, attached.size], [0, 0]);
  nowMs += 60_000;
  await come();
  await come();
  await passHeadStart();
  assert.equal(gates.length, 1);
});

test('not for a pod that wants more of its network, and its coming tells nothing', async () => {
  await readySome(1);
  const mapping = { protocol: 'tcp', containerPort: 80, hostPort: 80, hostIp: '' } as const;
  for (let i = 0; i < 3; i += 1) {
    assert.equal(await come({ ...pod, portMappings: [mapping] }), undefined);
    mock.timers.tick(10_000);
  }
  await gone();
});

test('what is good no more is given back and not used', async () => {
  await readySome(2);
  const [first = '', second = ''] = networks.ids();
  bad.add(first);
  assert.equal(await come(), second);
  await until(() => !attached.has(first));
});

test('nor what was made with other sysctls than pods get now', async () => {
  await readySome(1);
  const before: readonly string[] = networks.ids();
  security.defaultSysctls = new DefaultSysctls(['net.ipv4.ip_forward=1'], silentLogger);
  const next = come();
  await settle();
  await finish();
  assert.ok(!before.includes((await next) ?? ''));
  await until(() => before.every((id) => !attached.has(id)));
});

test('what has become bad while it was made is not handed to the pod that waits for it', async () => {
  await come();
  await come();
  await passHeadStart();
  const waiting = come();
  for (const id of networks.ids()) bad.add(id);
  await finish();
  assert.equal(await waiting, undefined);
});

test('all are given back when no pod has come for a while', async () => {
  await readySome(2);
  mock.timers.tick(29_000);
  await come();
  mock.timers.tick(29_999);
  await settle();
  assert.deepEqual([networks.ready, gates.length], [1, 2], 'some are still being made');
  mock.timers.tick(1);
  await finish();
  await gone();
  assert.deepEqual(readdirSync(join(folder, 'state/sandboxes')).toSorted(), taken.toSorted());
});

test('pods that are attached by themselves keep others from being made', async () => {
  await come();
  const attaching = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const done = attaching.map((one) => networks.attaching(newSandboxId(), () => one.promise));
  await come();
  await passHeadStart();
  assert.equal(gates.length, 0);
  for (const one of attaching) one.resolve();
  await Promise.all(done);
  await passHeadStart();
  assert.equal(gates.length, 1);
});

test('for a pod that finds no address all are given back, also those that come meanwhile', async () => {
  await readySome(2);
  await come();
  await passHeadStart();
  assert.ok(gates.length > 0);
  const given = networks.giveBack(never);
  await settle();
  await finish();
  assert.equal(await given, true);
  assert.equal(attached.size, taken.length);
  assert.equal(await networks.giveBack(never), false);
});

test('one that plugins do not take back is told, counted and tried again', async () => {
  await readySome(1);
  const [id = ''] = networks.ids();
  releaseFails = true;
  networks.follow(0);
  await until(() => tries === 1);
  await settle();
  assert.deepEqual(networks.ids(), [id]);
  networks.follow(LIMIT);
  for (let i = 0; i < 3; i += 1) await come();
  await settle();
  assert.equal(gates.length, 0, 'none is made meanwhile');
  mock.timers.tick(60_000);
  await until(() => tries === 2);
  await settle();
  assert.deepEqual(networks.ids(), [id]);
  releaseFails = false;
  mock.timers.tick(60_000);
  await until(() => !attached.has(id));
});

test('and at once for a pod that finds no address', async () => {
  await readySome(1);
  releaseFails = true;
  networks.follow(0);
  await until(() => tries === 1);
  await settle();
  releaseFails = false;
  assert.equal(await networks.giveBack(never), true);
  assert.deepEqual(networks.ids(), []);
});

test('not for a pod for which the network has become another one while it waited', async () => {
  await come();
  await come();
  await passHeadStart();
  const waiting = come();
  isForAll = false;
  await finish();
  assert.equal(await waiting, undefined);
});

test('what cannot be claimed is given back', async () => {
  await readySome(1);
  const [id = ''] = networks.ids();
  claimFails = true;
  await assert.rejects(come(), /the disk is full/);
  await until(() => !attached.has(id));
});

test('a lower limit holds at once, and none means none', async () => {
  await readySome(LIMIT);
  networks.follow(1);
  await until(() => networks.ids().length === 1);
  assert.equal(attached.size - taken.length, 1);
  assert.equal(mostReleasing, 2, 'no more than two at a time');
  networks.follow(0);
  await gone();
  assert.equal(await come(), undefined);
  await come();
  assert.equal(gates.length, 0);
});

test('a stop ends what is being made and gives all back', async () => {
  await readySome(2);
  await come();
  await passHeadStart();
  const waiting = [come(), come(), come()];
  await networks.close();
  await Promise.all(waiting);
  assert.deepEqual(networks.ids(), []);
});

test('what an earlier berthd had ready is given back, unless a sandbox has it', async () => {
  const [left, own] = ['a'.repeat(64), 'b'.repeat(64)];
  for (const id of [left, own]) {
    mkdirSync(join(folder, 'state/sandboxes', id, 'ns'), { recursive: true });
    writeFileSync(join(folder, 'state/sandboxes', id, 'spare'), '');
  }
  const [file, link, begun] = ['c', 'd', 'e'].map((digit) => join(folder, 'state/sandboxes', digit.repeat(64)));
  writeFileSync(file ?? '', 'not ours');
  symlinkSync('/nowhere', link ?? '');
  // Killed between its folder and its mark.
  mkdirSync(begun ?? '');
  await networks.discardLeft({ find: (id) => (id === own ? {} : undefined) });
  const names = [own, 'c'.repeat(64), 'd'.repeat(64)];
  assert.deepEqual(readdirSync(join(folder, 'state/sandboxes')).toSorted(), names);
});
