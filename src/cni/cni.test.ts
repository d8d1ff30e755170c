import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { FakePlugins, hang, pluginError } from '../../test/fakes/cni-plugins.ts';
import { systemClock } from '../base/clock.ts';
import { BerthError, describe, findCause } from '../base/errors.ts';
import { type LogFields, silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { Cni, type CniAttachment, type CniTimes } from './cni.ts';
import { CniError } from './cni-error.ts';

const never = new AbortController().signal;
let base: string;
let logged: { readonly fields: LogFields; readonly message: string }[];
let plugins: FakePlugins;
let cni: Cni;
let counted: string[];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'berth-cni-'));
  plugins = new FakePlugins();
  plugins.install(join(base, 'bin'), 'bridge', 'tuning', 'portmap');
  mkdirSync(join(base, 'net.d'));
  [counted, logged] = [[], []];
});
afterEach(async () => {
  await cni.close();
  rmSync(base, { recursive: true, force: true });
});

function configure(more: object = {}): void {
  const conf = {
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      { type: 'bridge', mtu: 1400 },
      { type: 'tuning' },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
    ...more,
  };
  writeFileSync(join(base, 'net.d', '10-pods.conflist'), JSON.stringify(conf));
}

async function start(times: Partial<CniTimes> = {}, lateClosePath?: string): Promise<void> {
  const cniMeter = { ...silentMeter, cni: (verb: string, outcome: string) => void counted.push(`${verb} ${outcome}`) };
  cni = new Cni({
    confDir: join(base, 'net.d'),
    binDirs: [join(base, 'bin')],
    cacheDir: join(base, 'cache'),
    processes: plugins,
    log: { ...silentLogger, info: (fields, message) => void logged.push({ fields, message }) },
    meter: cniMeter,
    clock: systemClock,
    lateClosePath,
    times: { settleMs: 1, delPausesMs: [1, 1, 1], ...times },
  });
  await cni.start();
}

async function restart(times: Partial<CniTimes> = {}): Promise<void> {
  await cni.close();
  plugins.runs.length = 0;
  await start(times);
}

function pod(containerId = 'c1', more: Partial<CniAttachment> = {}): CniAttachment {
  return {
    containerId,
    netns: '/run/netns/a',
    ifName: 'eth0',
    pod: { namespace: 'ns', name: 'web', uid: 'u' },
    portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' }],
    annotations: {},
    ...more,
  };
}

function cacheFiles(): string[] {
  return readdirSync(join(base, 'cache', 'results')).sort();
}

test('ADD runs the chain: results handed on, arguments only for who asked', async () => {
  configure();
  await start();
  const result = await cni.add(pod(), never);
  assert.deepEqual(result.ips, [{ address: '10.9.0.2', prefixLength: 24, gateway: '10.9.0.1' }]);
  assert.deepEqual([result.network, result.mac], ['pods', '02:00:00:00:00:01']);
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'ADD tuning', 'ADD portmap']);
  const [bridge, tuning, portmap] = plugins.runs;
  assert.deepEqual(bridge?.request, { type: 'bridge', mtu: 1400, name: 'pods', cniVersion: '1.0.0' });
  assert.equal(typeof tuning?.request['prevResult'], 'object');
  assert.equal(portmap?.request['capabilities'], undefined);
  assert.deepEqual(portmap?.request['runtimeConfig'], {
    portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }],
  });
  assert.deepEqual(bridge?.env, {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'c1',
    CNI_NETNS: '/run/netns/a',
    CNI_IFNAME: 'eth0',
    CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u',
    CNI_PATH: join(base, 'bin'),
    PATH: process.env['PATH'],
  });
  assert.deepEqual(cacheFiles(), ['pods-c1-eth0.json']);
  assert.deepEqual(counted, ['ADD ok']);
});

test('DEL runs in reverse with all that ADD had, after a restart and when the configuration is gone', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  rmSync(join(base, 'net.d'), { recursive: true });
  await restart();
  assert.equal((await cni.status(never)).ready, false);
  await cni.del(pod('c1', { netns: '', portMappings: [], pod: { namespace: '', name: '', uid: '' } }), never);
  assert.deepEqual(plugins.calls(), ['DEL portmap', 'DEL tuning', 'DEL bridge']);
  const [portmap, , bridge] = plugins.runs;
  assert.equal(portmap?.env['CNI_NETNS'], '');
  assert.match(portmap?.env['CNI_ARGS'] ?? '', /K8S_POD_NAME=web/);
  assert.ok(portmap?.request['runtimeConfig']);
  assert.equal(bridge?.request['mtu'], 1400);
  assert.deepEqual(bridge?.request['prevResult'], portmap?.request['prevResult']);
  assert.ok(bridge?.request['prevResult']);
  assert.deepEqual(cacheFiles(), []);
});

test('only the DEL of plugins that are known for it does without the wait for what it deletes', async () => {
  configure();
  const library = join(base, 'late-close.so');
  writeFileSync(library, '');
  await start({}, library);
  await cni.add(pod(), never);
  await cni.check(pod(), never);
  await cni.del(pod(), never);
  assert.deepEqual(
    plugins.runs.map(({ verb, env }) => [verb, env['LD_PRELOAD']]),
    [
      ...['ADD', 'CHECK'].flatMap((verb) => Array(3).fill([verb, undefined])),
      ...[library, undefined, library].map((preloaded) => ['DEL', preloaded]),
    ],
  );
});

test('DEL before 0.4.0 gets no previous result', async () => {
  configure({ cniVersion: '0.3.1' });
  await start();
  await cni.add(pod(), never);
  await cni.del(pod(), never);
  assert.deepEqual(
    plugins.runs.filter(({ verb }) => verb === 'DEL').map(({ request }) => request['prevResult']),
    [undefined, undefined, undefined],
  );
});

test('DEL is idempotent, and never fails for what was not attached', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  await cni.del(pod(), never);
  plugins.behave = () => pluginError(100, 'no');
  plugins.runs.length = 0;
  await cni.del(pod(), never);
  assert.deepEqual(plugins.calls(), ['DEL portmap'], 'the current network had its chance, once');
  rmSync(join(base, 'net.d'), { recursive: true });
  await restart();
  await cni.del(pod(), never);
  assert.deepEqual(plugins.calls(), []);
});

test('DEL tries again, and keeps what it knows until it succeeds', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  plugins.runs.length = 0;
  plugins.behave = ({ verb, plugin }) =>
    verb === 'DEL' && plugin === 'tuning' ? pluginError(100, 'busy', 'device') : undefined;
  await assert.rejects(cni.del(pod(), never), {
    name: 'CniError',
    code: 100,
    details: 'device',
    plugin: 'tuning',
    kind: 'precondition',
  });
  assert.equal(plugins.calls().filter((call) => call === 'DEL tuning').length, 4);
  assert.ok(!plugins.calls().includes('DEL bridge'), 'it stops at the plugin that fails');
  assert.deepEqual(cacheFiles(), ['pods-c1-eth0.json']);
  let failures = 6;
  plugins.behave = ({ plugin }) => (plugin === 'tuning' && failures-- > 0 ? pluginError(11, 'try again') : undefined);
  await cni.del(pod(), never);
  assert.deepEqual(cacheFiles(), []);
});

test('DEL gives up at its deadline with the words of the plugin', async () => {
  configure();
  await start({ delMs: 50, delPausesMs: [1000] });
  await cni.add(pod(), never);
  plugins.behave = () => pluginError(11, 'later');
  await assert.rejects(cni.del(pod(), never), { name: 'CniError', code: 11, kind: 'unavailable' });
});

test('"container unknown" is a DEL that succeeded', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  plugins.behave = ({ verb }) => (verb === 'DEL' ? pluginError(3, 'unknown') : undefined);
  await cni.del(pod(), never);
  assert.deepEqual(cacheFiles(), []);
});

test('each way to fail an ADD has its own words, and is cleaned up', async () => {
  configure();
  await start({ verbMs: 100 });
  const ways: readonly [() => ReturnType<FakePlugins['behave']>, string, RegExp][] = [
    [
      () => pluginError(7, 'bad config', 'mtu'),
      'precondition',
      /"tuning" failed ADD on network "pods": code 7: bad config \(mtu\)/,
    ],
    [() => pluginError(11, 'later'), 'unavailable', /code 11: later/],
    [
      () => ({ exitCode: 2, stderr: 'panic: oh\n  at x' }),
      'precondition',
      /exited with 2 without a word; stderr: panic: oh at x/,
    ],
    [() => ({ exitCode: 1, stdout: 'oops' }), 'precondition', /exited with 1 without an error object, but: oops/],
    [() => ({ exitCode: 137, killedBy: 'SIGKILL' }), 'precondition', /was ended by SIGKILL/],
    [() => ({ stdout: '' }), 'precondition', /no valid result: result: is empty/],
    [() => ({ stdout: 'garbage' }), 'precondition', /no valid result: result: is not JSON/],
    [() => ({ stdout: '{"ips":[{"address":"x"}]}' }), 'precondition', /no valid result: ips\.0\.address/],
    [() => ({ stdout: '['.repeat(1024 * 1024), truncated: true }), 'precondition', /printed more than 1048576 bytes/],
    [() => Promise.reject(new BerthError('permission', 'EACCES')), 'permission', /could not be run: EACCES/],
  ];
  for (const [way, kind, text] of ways) {
    plugins.runs.length = 0;
    plugins.behave = ({ verb, plugin }) => (verb === 'ADD' && plugin === 'tuning' ? way() : undefined);
    const err = await cni.add(pod(), never).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    assert.match(describe(err), text);
    assert.ok(err instanceof CniError && err.kind === kind, `${describe(err)}: ${String(err)}`);
    assert.deepEqual(plugins.calls(), ['ADD bridge', 'ADD tuning', 'DEL portmap', 'DEL tuning', 'DEL bridge']);
    assert.deepEqual(cacheFiles(), []);
  }
  plugins.behave = () => undefined;
  await cni.add(pod(), never);
});

test('a plugin that hangs is ended at the deadline', async () => {
  configure();
  await start({ verbMs: 30 });
  plugins.behave = (run) => (run.verb === 'ADD' && run.plugin === 'bridge' ? hang(run) : undefined);
  const err = await cni.add(pod(), never).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(err instanceof CniError && err.kind === 'deadline');
  assert.match(
    describe(err),
    /"bridge" failed ADD on network "pods": it did not end in time: CNI ADD of container c1: no answer within 30 ms/,
  );
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'DEL portmap', 'DEL tuning', 'DEL bridge']);
});

test('a caller that gives up ends the ADD, but not its cleanup', async () => {
  configure();
  await start();
  const gone = new AbortController();
  plugins.behave = (run) => {
    if (run.verb === 'ADD' && run.plugin === 'tuning') gone.abort(new BerthError('cancelled', 'the client left'));
    return run.verb === 'ADD' && run.plugin === 'tuning' ? Promise.reject(gone.signal.reason) : undefined;
  };
  await assert.rejects(cni.add(pod(), gone.signal), { kind: 'cancelled' });
  assert.deepEqual(plugins.calls().slice(2), ['DEL portmap', 'DEL tuning', 'DEL bridge']);
});

test('when the cleanup fails too, both are told, and DEL still knows what ADD had', async () => {
  configure();
  await start();
  plugins.behave = ({ verb, plugin }) => {
    if (verb === 'ADD' && plugin === 'portmap') return pluginError(100, 'no rules');
    return verb === 'DEL' && plugin === 'tuning' ? pluginError(101, 'no undo') : undefined;
  };
  const err = await cni.add(pod(), never).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.match(describe(err), /its cleanup: .*no rules.*and the DEL after it: .*no undo/);
  assert.ok(plugins.calls().includes('DEL bridge'), 'the cleanup stopped early');
  assert.deepEqual(cacheFiles(), ['pods-c1-eth0.json']);
  await assert.rejects(cni.add(pod(), never), { kind: 'precondition', message: /attached already/ });
  configure({ name: 'other' });
  plugins.behave = () => undefined;
  await restart();
  await cni.del(pod(), never);
  assert.equal(plugins.runs[0]?.request['name'], 'pods');
  assert.deepEqual(cacheFiles(), []);
  assert.deepEqual(counted.slice(0, 2), ['DEL precondition', 'ADD precondition']);
});

test('one container at a time, different ones together', async () => {
  configure({ plugins: [{ type: 'bridge' }] });
  await start();
  const gates = new Map(['a', 'b'].map((id) => [id, Promise.withResolvers<undefined>()]));
  const began = Promise.withResolvers<void>();
  plugins.behave = ({ verb, env }) => {
    if (verb !== 'ADD') return undefined;
    if (plugins.runs.length === 2) began.resolve();
    return gates.get(env['CNI_CONTAINERID'] ?? '')?.promise.then(() => ({ stdout: '{}' }));
  };
  const adds = [cni.add(pod('a'), never), cni.add(pod('b'), never)];
  const del = cni.del(pod('a'), never);
  await began.promise;
  gates.get('b')?.resolve(undefined);
  await adds[1];
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'ADD bridge'], 'DEL of a waits for its ADD');
  gates.get('a')?.resolve(undefined);
  await Promise.all([...adds, del]);
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'ADD bridge', 'DEL bridge']);
});

test('a missing plugin is named', async () => {
  configure();
  await start();
  plugins.behave = ({ plugin }) =>
    plugin === 'tuning' ? Promise.reject(new BerthError('notFound', 'ENOENT')) : undefined;
  await assert.rejects(cni.add(pod(), never), {
    kind: 'precondition',
    message: /"tuning" failed ADD.*no such program in .*bin/,
  });
});

test('a plugin that stays missing keeps no pod from going, and the others do their part', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  plugins.runs.length = 0;
  const missing = new Set(['tuning']);
  plugins.behave = ({ plugin }) => {
    if (missing.has(plugin)) return Promise.reject(new BerthError('notFound', 'ENOENT'));
    return plugin === 'portmap' && missing.has('rules') ? pluginError(100, 'busy') : undefined;
  };
  missing.add('rules');
  await assert.rejects(cni.del(pod(), never), { plugin: 'portmap', code: 100 });
  missing.delete('rules');
  await cni.del(pod(), never);
  assert.deepEqual(plugins.calls().slice(-3), ['DEL portmap', 'DEL tuning', 'DEL bridge']);
  assert.equal(plugins.calls().filter((call) => call === 'DEL tuning').length, 5, 'it may be there again in a moment');
  assert.deepEqual(cacheFiles(), []);
});

test('bad input is refused before any plugin runs', async () => {
  configure();
  await start();
  const wrong: readonly [CniAttachment, RegExp][] = [
    [pod('../x'), /^containerId: /],
    [pod('c', { ifName: 'a/b' }), /^ifName: /],
    [pod('c', { pod: { namespace: 'a;K8S_POD_NAME=x', name: 'n', uid: '' } }), /^config\.metadata\.namespace: /],
  ];
  for (const [attachment, message] of wrong) {
    await assert.rejects(cni.add(attachment, never), { kind: 'invalid', message });
  }
  await assert.rejects(cni.add(pod('c', { netns: '' }), never), { kind: 'precondition' });
  await assert.rejects(cni.del(pod('../x'), never), { kind: 'invalid' });
  assert.deepEqual(plugins.calls(), []);
  assert.deepEqual(cacheFiles(), []);
});

test('CHECK hands the plugins the result of ADD', async () => {
  configure();
  await start();
  await assert.rejects(cni.check(pod(), never), { kind: 'notFound' });
  await cni.add(pod(), never);
  plugins.runs.length = 0;
  await cni.check(pod(), never);
  assert.deepEqual(plugins.calls(), ['CHECK bridge', 'CHECK tuning', 'CHECK portmap']);
  assert.ok(plugins.runs.every(({ request }) => request['prevResult']));
  plugins.behave = () => pluginError(100, 'route is gone');
  await assert.rejects(cni.check(pod(), never), { code: 100 });
});

test('rules of an IP version that the pod does not speak are not missed', async () => {
  configure();
  await start();
  await cni.add(pod(), never);
  const misses = (version: number) => {
    const problem = `could not check ipv${version} dnat: chain CNI-DN-0 not found in iptables table nat`;
    plugins.behave = ({ verb, plugin }) =>
      verb === 'CHECK' && plugin === 'portmap' ? pluginError(999, problem) : undefined;
  };
  misses(6);
  await cni.check(pod(), never);
  misses(4);
  await assert.rejects(cni.check(pod(), never), { code: 999 });
});

test('CHECK is not run where it must not be', async () => {
  for (const more of [{ cniVersion: '0.3.1' }, { disableCheck: true }]) {
    configure(more);
    if (counted.length === 0) await start();
    else await restart();
    await cni.add(pod(), never);
    await cni.check(pod(), never);
    assert.ok(!plugins.calls().some((call) => call.startsWith('CHECK')));
    await cni.del(pod(), never);
  }
});

test('GC detaches what nobody owns, and tells the plugins of 1.1 what is valid', async () => {
  configure({ cniVersion: '1.1.0' });
  await start();
  for (const id of ['a', 'b', 'c']) await cni.add(pod(id), never);
  await restart();
  await cni.gc(
    [
      { containerId: 'a', ifName: 'eth0' },
      { containerId: 'x', ifName: 'eth0' },
    ],
    never,
    new Set(['b']),
  );
  const freed = logged.filter(({ fields }) => 'pod' in fields);
  assert.deepEqual(freed.map(({ fields, message }) => [fields['container'], fields['pod'], message]).sort(), [
    ['b', 'ns/web', 'the machine was rebooted: freed what this pod had of its network before'],
    ['c', 'ns/web', 'freed what a pod that is gone had left of its network'],
  ]);
  const deleted = plugins.runs.filter(({ verb, plugin }) => verb === 'DEL' && plugin === 'bridge');
  assert.deepEqual(deleted.map(({ env }) => [env['CNI_CONTAINERID'], env['CNI_NETNS']]).sort(), [
    ['b', ''],
    ['c', ''],
  ]);
  const collected = plugins.runs.filter(({ verb }) => verb === 'GC');
  assert.deepEqual(
    collected.map(({ plugin }) => plugin),
    ['bridge', 'tuning', 'portmap'],
  );
  assert.deepEqual(collected[0]?.request['cni.dev/valid-attachments'], [
    { containerID: 'a', ifname: 'eth0' },
    { containerID: 'x', ifname: 'eth0' },
  ]);
  assert.equal(collected[0]?.env['CNI_CONTAINERID'], undefined);
  assert.deepEqual(cacheFiles(), ['pods-a-eth0.json']);
});

test('GC of older or forbidding networks is only what Berth knows', async () => {
  for (const more of [{ cniVersion: '1.0.0' }, { cniVersion: '1.1.0', disableGC: true }]) {
    configure(more);
    if (counted.length === 0) await start();
    else await restart();
    await cni.add(pod(), never);
    await cni.gc([], never);
    assert.deepEqual(plugins.calls().slice(3), ['DEL portmap', 'DEL tuning', 'DEL bridge']);
  }
});

test('GC goes on past failures and runs alone', async () => {
  configure({ cniVersion: '1.1.0', plugins: [{ type: 'bridge' }, { type: 'tuning' }] });
  await start();
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<undefined>();
  plugins.behave = ({ verb, plugin }) => {
    if (verb !== 'GC' || plugin !== 'bridge') return undefined;
    entered.resolve();
    return leave.promise.then(() => pluginError(100, 'cannot collect'));
  };
  const collecting = cni.gc([], never);
  await entered.promise;
  const adding = cni.add(pod(), never);
  leave.resolve(undefined);
  await assert.rejects(collecting, (err: unknown) => /1 of its calls failed: .*cannot collect/.test(describe(err)));
  await adding;
  assert.deepEqual(plugins.calls(), ['GC bridge', 'GC tuning', 'ADD bridge', 'ADD tuning']);
  assert.deepEqual(counted, ['GC precondition', 'ADD ok']);
});

test('GC waits for an ADD, and leaves alone what it made meanwhile', async () => {
  configure({ cniVersion: '1.1.0', plugins: [{ type: 'bridge' }] });
  await start();
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<undefined>();
  plugins.behave = ({ verb }) => {
    if (verb !== 'ADD') return undefined;
    entered.resolve();
    return leave.promise.then(() => ({ stdout: '{}' }));
  };
  const adding = cni.add(pod('a'), never);
  await entered.promise;
  const collecting = cni.gc([{ containerId: 'a', ifName: 'eth0' }], never);
  leave.resolve(undefined);
  await Promise.all([adding, collecting]);
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'GC bridge']);
  assert.deepEqual(counted, ['ADD ok', 'GC ok'], 'GC did not wait');
});

test('GC is ended early, and the time that an ADD waits for it is not its own', async () => {
  configure({ cniVersion: '1.1.0', plugins: [{ type: 'bridge' }] });
  await start({ gcMs: 200, verbMs: 100 });
  plugins.behave = (run) => (run.verb === 'GC' ? hang(run) : undefined);
  const collecting = cni.gc([], never);
  const adding = cni.add(pod(), never);
  await assert.rejects(collecting, { kind: 'deadline' });
  await adding;
});

test('GC is put off while an ADD takes long, and holds up no other', async () => {
  configure({ cniVersion: '1.1.0', plugins: [{ type: 'bridge' }] });
  await start({ gcPatienceMs: 20, gcPauseMs: 20 });
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<undefined>();
  plugins.behave = ({ env }) => {
    if (env['CNI_CONTAINERID'] !== 'slow') return undefined;
    entered.resolve();
    return leave.promise.then(() => ({ stdout: '{}' }));
  };
  const adding = cni.add(pod('slow'), never);
  await entered.promise;
  const collecting = cni.gc([{ containerId: 'slow', ifName: 'eth0' }], never);
  await cni.add(pod('other'), never);
  assert.ok(!plugins.calls().includes('GC bridge'));
  leave.resolve(undefined);
  await Promise.all([adding, collecting]);
  assert.deepEqual(plugins.calls().slice(-1), ['GC bridge']);
});

test('GC does not detach again what is being detached', async () => {
  configure({ plugins: [{ type: 'bridge' }] });
  await start();
  await cni.add(pod('a'), never);
  const deleting = cni.del(pod('a'), never);
  await Promise.all([deleting, cni.gc([], never)]);
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'DEL bridge']);
});

test('STATUS decides readiness with 1.1, asked seldom and never waited for long', async () => {
  configure({ cniVersion: '1.1.0', plugins: [{ type: 'bridge' }] });
  await start();
  assert.deepEqual(await cni.status(never), { ready: true, reason: '', message: '' });
  await cni.status(never);
  assert.deepEqual(plugins.calls(), ['STATUS bridge']);
  await restart({ statusFreshMs: 0, statusAnswerMs: 30, statusPatienceMs: 10_000 });
  plugins.behave = () => pluginError(50, 'no uplink');
  const down = await cni.status(never);
  assert.deepEqual([down.ready, down.reason], [false, 'NetworkPluginNotReady']);
  assert.match(down.message, /"bridge" failed STATUS on network "pods": code 50: no uplink/);
  plugins.behave = hang;
  assert.match((await cni.status(never)).message, /it did not end in time/);
  await restart({ statusPatienceMs: 5 });
  assert.match((await cni.status(never)).message, /have not answered STATUS yet/);
});

test('without STATUS no plugin runs for the status', async () => {
  configure();
  await start();
  assert.equal((await cni.status(never)).ready, true);
  assert.deepEqual(plugins.calls(), []);
});

test('no network: not ready, with what to do; ADD says the same', async () => {
  await start();
  const status = await cni.status(never);
  assert.deepEqual([status.ready, status.reason], [false, 'NetworkPluginNotReady']);
  assert.match(status.message, /no valid CNI configuration in .*net\.d; put a network's \.conflist file there/);
  await assert.rejects(cni.add(pod(), never), { kind: 'precondition', message: status.message });
  const told: string[] = [];
  const ready = cni.waitReady(AbortSignal.timeout(120_000), (problem) => told.push(problem));
  configure();
  await ready;
  await cni.waitReady(never, (problem) => told.push(problem));
  assert.deepEqual(told, [status.message]);
  await cni.add(pod(), never);
});

test('cache files that were tampered with or cut short are left alone', async () => {
  configure();
  await start();
  await cni.add(pod('good'), never);
  const dir = join(base, 'cache', 'results');
  const text = readFileSync(join(dir, 'pods-good-eth0.json'), 'utf8');
  writeFileSync(join(dir, 'pods-cut-eth0.json'), text.slice(0, 100));
  // Read after the good one, and about the same container.
  writeFileSync(join(dir, 'pods-other-eth0.json'), text.replace('10.9.0.2', '10.9.0.3'));
  writeFileSync(join(dir, 'pods-bad-eth0.json'), text.replaceAll('good', '../../bad'));
  writeFileSync(join(dir, '1-1.tmp'), text);
  await restart();
  assert.ok(!cacheFiles().includes('1-1.tmp'));
  await cni.gc([], never);
  assert.deepEqual(
    plugins.runs.map(({ env }) => env['CNI_CONTAINERID']),
    ['good', 'good', 'good'],
  );
  assert.match(JSON.stringify(plugins.runs[0]?.request['prevResult']), /10\.9\.0\.2/);
});

test('closing ends what plugins do', async () => {
  configure();
  await start();
  const began = Promise.withResolvers<void>();
  plugins.behave = (run) => {
    began.resolve();
    return hang(run);
  };
  const adding = cni.add(pod(), never);
  await began.promise;
  await cni.close();
  const err = await adding.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.equal(findCause(err, CniError), undefined);
  assert.ok(err instanceof BerthError && err.kind === 'cancelled', describe(err));
  assert.deepEqual(cacheFiles(), ['pods-c1-eth0.json'], 'DEL after the next start must know it');
});

const spared = { plugins: [{ type: 'bridge', ipam: { type: 'host-local' } }, { type: 'tuning' }, { type: 'portmap' }] };

/** Plugins whose side of the host is there: one that is not there is taken for deleted. */
function withRealLink(): void {
  const interfaces = [{ name: 'lo' }, { name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/run/netns/s' }];
  const ips = [{ address: '10.9.0.2/24', gateway: '10.9.0.1', interface: 1 }];
  plugins.behave = ({ verb }) =>
    verb === 'ADD' ? { stdout: JSON.stringify({ cniVersion: '1.0.0', interfaces, ips }) } : undefined;
}

test('a network is attached before its pod comes, which gets it as ADD would have made it', async () => {
  withRealLink();
  configure(spared);
  await start();
  assert.equal(cni.canSpare, true);
  const spare = await cni.addSpare({ containerId: 's1', ifName: 'eth0', netns: '/run/netns/s' }, never);
  assert.deepEqual(plugins.calls(), ['ADD bridge', 'ADD tuning', 'ADD portmap']);
  const args = plugins.runs.map(({ env }) => env['CNI_ARGS']);
  assert.deepEqual(new Set(args), new Set(['IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=s1']));
  assert.equal(cni.isGood(spare), true);
  const { netns: _netns, ifName: _ifName, containerId: _id, ...web } = pod();
  assert.equal(cni.canSpareFor(web), true, 'no plugin asks for port mappings');
  const claimed = cni.claim(spare, web);
  await cni.add(pod('c2'), never);
  assert.deepEqual(claimed.ips, [{ address: '10.9.0.2', prefixLength: 24, gateway: '10.9.0.1' }]);
  await restart();
  assert.equal(cni.isAttached(spare), true);
  await cni.del(pod('s1'), never);
  assert.match(plugins.runs.at(0)?.env['CNI_ARGS'] ?? '', /K8S_POD_NAME=web;/);
});

test('a spare one that nobody has claimed can be given back after a restart', async () => {
  configure(spared);
  await start();
  const spare = await cni.addSpare({ containerId: 's1', ifName: 'eth0', netns: '/run/netns/s' }, never);
  await restart();
  await cni.release(spare, never);
  assert.deepEqual(plugins.calls(), ['DEL portmap', 'DEL tuning', 'DEL bridge']);
  await cni.release(spare, never);
  assert.deepEqual([plugins.calls().length, cacheFiles()], [3, []]);
});

test('it is no good any more once the network is another one', async () => {
  withRealLink();
  configure(spared);
  await start();
  const spare = await cni.addSpare({ containerId: 's1', ifName: 'eth0', netns: '/run/netns/s' }, never);
  configure(spared);
  await restart();
  assert.equal(cni.isGood(spare), true);
  configure({ plugins: [{ ...spared.plugins[0], mtu: 1300 }] });
  await restart();
  assert.equal(cni.isGood(spare), false);
  assert.equal(cni.isGood({ ...spare, links: new Map([['no-such-link', 7]]) }), false);
});

test('plugins that may ask whose network it is are not run before there is a pod', async () => {
  const bridge = { type: 'bridge', ipam: { type: 'host-local' } };
  const cases: readonly [string, readonly object[], boolean][] = [
    ['bridge', [bridge], true],
    ['ptp with all that may follow', [{ ...bridge, type: 'ptp' }, { type: 'portmap' }, { type: 'bandwidth' }], true],
    ['addresses by others', [{ type: 'bridge', ipam: { type: 'dhcp' } }], false],
    ['no addresses', [{ type: 'bridge' }], false],
    ['another plugin', [{ type: 'calico', ipam: { type: 'host-local' } }], false],
    ['another one after it', [bridge, { type: 'istio-cni' }], false],
  ];
  plugins.install(join(base, 'bin'), 'ptp', 'bandwidth', 'calico', 'istio-cni');
  await start();
  for (const [what, list, expected] of cases) {
    configure({ plugins: list });
    await restart();
    assert.equal(cni.canSpare, expected, what);
  }
  const key = { containerId: 's1', ifName: 'eth0', netns: '/run/netns/s' };
  await assert.rejects(cni.addSpare(key, never), { kind: 'precondition', message: /have to know whose network/ });
  assert.deepEqual(plugins.runs, []);
});

test('an ADD that the plugin with the addresses refused is told from others', async () => {
  configure(spared);
  await start();
  const failing = async (plugin: string, error: string): Promise<unknown> => {
    plugins.behave = (run) =>
      run.plugin === plugin && run.verb === 'ADD' ? { exitCode: 1, stdout: error } : undefined;
    return await cni.add(pod(), never).catch((err: unknown) => err);
  };
  const full = pluginError(100, 'no IP addresses available in range set').stdout ?? '';
  assert.equal(cni.mayLackAddress(await failing('bridge', full)), true);
  assert.equal(cni.mayLackAddress(await failing('portmap', full)), false);
  assert.equal(cni.mayLackAddress(await failing('bridge', 'no word that is known')), false);
  assert.equal(cni.mayLackAddress(new Error('another')), false);
});

test('a pod that wants something of a plugin is told apart', async () => {
  configure({
    plugins: [
      { type: 'bridge', ipam: { type: 'host-local' } },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  });
  await start();
  assert.equal(cni.canSpareFor(pod()), false);
  assert.equal(cni.canSpareFor(pod('c1', { portMappings: [] })), true);
  const limited = { 'kubernetes.io/ingress-bandwidth': '10M' };
  assert.equal(cni.canSpareFor(pod('c1', { portMappings: [], annotations: limited })), true, 'nobody limits it');
});
