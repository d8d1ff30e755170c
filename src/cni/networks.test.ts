import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { FakePlugins } from '../../test/fakes/cni-plugins.ts';
import { type LogFields, type Logger, silentLogger } from '../base/log.ts';
import { Networks } from './networks.ts';
import { PluginBinaries } from './plugin-binaries.ts';

let base: string;
let confDir: string;
let binDir: string;
let networks: Networks;
let lines: { message: string; fields: LogFields }[];
let onLine: () => void;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'berth-cni-networks-'));
  confDir = join(base, 'etc', 'cni', 'net.d');
  binDir = join(base, 'bin');
  new FakePlugins().install(binDir, 'bridge', 'portmap');
  lines = [];
  onLine = () => {};
});
afterEach(async () => {
  await networks.close();
  rmSync(base, { recursive: true, force: true });
});

async function start(defaultNetwork?: string): Promise<void> {
  const note = (fields: LogFields, message: string): void => {
    lines.push({ fields, message });
    onLine();
  };
  const log: Logger = { ...silentLogger, info: note, warn: note, error: note };
  networks = new Networks({ confDir, defaultNetwork, binaries: new PluginBinaries([binDir]), log, settleMs: 5 });
  await networks.start();
}

function conf(name: string, ...plugins: string[]): string {
  return JSON.stringify({ cniVersion: '1.0.0', name, plugins: plugins.map((type) => ({ type })) });
}

function write(file: string, text: string): void {
  mkdirSync(dirname(join(confDir, file)), { recursive: true });
  writeFileSync(join(confDir, file), text);
}

function deadline(): AbortSignal {
  return AbortSignal.timeout(120_000);
}

/** Resolves when the condition holds; it is looked at after each line that is logged. */
async function until(condition: () => boolean): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(
    () => reject(new Error(`never came true: ${networks.problem}; ${JSON.stringify(lines)}`)),
    10_000,
  );
  onLine = () => condition() && resolve();
  onLine();
  await promise.finally(() => clearTimeout(timer));
}

test('the first valid file in lexical order is the network for pods; bad ones are named once', async () => {
  write('30-c.json', conf('third', 'bridge'));
  write('20-b.conf', JSON.stringify({ cniVersion: '0.4.0', name: 'second', type: 'bridge' }));
  write('10-bad.conflist', '{"cniVersion"');
  write('15-dup.conflist', conf('second', 'bridge'));
  write('05-notes.txt', 'no configuration');
  write('40-huge.conf', ' '.repeat(1024 * 1024 + 1));
  mkdirSync(join(confDir, '50-folder.conf'));
  execFileSync('mkfifo', [join(confDir, '60-fifo.conf')]);
  symlinkSync('nowhere', join(confDir, '70-dangling.conf'));
  await start();
  assert.equal(networks.get().name, 'second');
  assert.deepEqual(
    networks.all().map(({ name }) => name),
    ['second', 'third'],
  );
  assert.match(networks.skipped, /10-bad\.conflist: file: is not JSON/);
  assert.match(networks.skipped, /20-b\.conf: name: network "second" is already in 15-dup\.conflist/);
  assert.match(networks.skipped, /40-huge\.conf: file: is larger than 1048576 bytes/);
  assert.match(networks.skipped, /60-fifo\.conf: file: is no regular file/);
  const warned = lines.filter(({ message }) => message.includes('skipped'));
  assert.equal(warned.length, 4);

  const first = conf('first', 'bridge');
  write('00-a.conflist', first);
  await until(() => networks.find()?.name === 'first');
  assert.equal(lines.filter(({ message }) => message.includes('skipped')).length, 4, 'they were warned of again');
});

test('a network may be chosen by name', async () => {
  write('10-a.conflist', conf('a', 'bridge'));
  await start('b');
  assert.match(networks.problem, /no CNI configuration named "b" in .*net\.d, only "a"/);
  write('20-b.conflist', conf('b', 'bridge'));
  await networks.whenReady(deadline());
  assert.equal(networks.get().name, 'b');
});

test('a folder that does not exist yet is seen when it comes, and again when it is replaced', async () => {
  await start();
  assert.match(networks.problem, /the folder .*net\.d does not exist/);
  const ready = networks.whenReady(deadline());
  write('10-a.conflist', conf('a', 'bridge'));
  await ready;

  renameSync(join(base, 'etc'), join(base, 'old'));
  await until(() => !networks.find());
  assert.throws(() => networks.get(), { kind: 'precondition', message: /does not exist/ });
  const again = networks.whenReady(deadline());
  write('10-b.conflist', conf('b', 'bridge'));
  await again;
  assert.equal(networks.get().name, 'b');

  rmSync(confDir, { recursive: true });
  mkdirSync(confDir);
  await until(() => !networks.find());
  write('10-c.conflist', conf('c', 'bridge'));
  await networks.whenReady(deadline());
  assert.equal(networks.get().name, 'c');
});

test('a file that is written in two halves is read when it is whole; nothing of before stays', async () => {
  write('10-a.conflist', conf('a', 'bridge'));
  await start();
  const text = conf('b', 'bridge');
  write('10-a.conflist', text.slice(0, 20));
  await until(() => !networks.find());
  assert.match(networks.problem, /no valid CNI configuration.*10-a\.conflist: file: is not JSON/);
  appendFileSync(join(confDir, '10-a.conflist'), text.slice(20));
  await networks.whenReady(deadline());
  assert.equal(networks.get().name, 'b');
});

test('a removed file is noticed', async () => {
  write('10-a.conflist', conf('a', 'bridge'));
  await start();
  unlinkSync(join(confDir, '10-a.conflist'));
  await until(() => !networks.find());
  assert.match(networks.problem, /no valid CNI configuration in .*put a network's \.conflist file there/);
});

test('a missing plugin is named, and noticed when it comes', async () => {
  write('10-a.conflist', conf('a', 'bridge', 'firewall', 'bandwidth'));
  await start();
  assert.match(
    networks.problem,
    /"a" .*10-a\.conflist.* needs the plugin "firewall", "bandwidth".* no such program in .*bin/,
  );
  new FakePlugins().install(binDir, 'firewall', 'bandwidth');
  await networks.whenReady(deadline());
});

test('plugins come from the folder with the name of the network, unless the file says no', async () => {
  write('10-a.conflist', conf('a', 'bridge'));
  write('20-b.conflist', JSON.stringify({ cniVersion: '1.1.0', name: 'b' }));
  await start();
  assert.match(networks.skipped, /20-b\.conflist: plugins: is missing, and there are no plugin files in the folder b/);
  write('a/10-x.conf', JSON.stringify({ type: 'portmap' }));
  write('b/10-x.conf', JSON.stringify({ type: 'bridge' }));
  // Which is the later event is not ours to say; both lead to a reading.
  write('30-c.conflist', conf('c', 'bridge'));
  lines = [];
  write('a/20-bad.conf', '{');
  await until(() => lines.some(({ fields }) => String(fields['problem']).startsWith('a/20-bad.conf: ')));
  unlinkSync(join(confDir, 'a/20-bad.conf'));
  await until(() => networks.find()?.name === 'a');
  assert.deepEqual(
    networks.get().plugins.map(({ type }) => type),
    ['bridge', 'portmap'],
  );
  assert.deepEqual(
    networks.all().map(({ name }) => name),
    ['a', 'b', 'c'],
  );
  const inlined = JSON.stringify({ ...JSON.parse(conf('only', 'bridge')), loadOnlyInlinedPlugins: true });
  write('only/10-x.conf', JSON.stringify({ type: 'portmap' }));
  write('00-only.conflist', inlined);
  await until(() => networks.find()?.name === 'only');
  assert.equal(networks.get().plugins.length, 1);
});

test('a plugin file that comes later into a folder is noticed', async () => {
  write('10-a.conflist', conf('a', 'bridge'));
  write('a/10-x.conf', JSON.stringify({ type: 'portmap' }));
  await start();
  assert.equal(networks.get().plugins.length, 2);
  write('a/20-x.conf', JSON.stringify({ type: 'firewall' }));
  await until(() => networks.problem.includes('"firewall"'));
});

test('a wait ends with its signal and says what is missing', async () => {
  await start();
  const gone = new AbortController();
  const wait = networks.whenReady(gone.signal);
  gone.abort(new Error('the kubelet left'));
  await assert.rejects(
    wait,
    (err: Error) => /does not exist/.test(err.message) && String(err.cause).includes('kubelet left'),
  );
  const other = networks.whenReady(deadline());
  await Promise.all([networks.close(), assert.rejects(other, { kind: 'cancelled' })]);
});
