import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { load } from 'js-yaml';
import { parse } from 'smol-toml';

import { silentLogger } from '../../src/base/log.ts';
import { readConfDir } from '../../src/cni/conf-dir.ts';
import { renderDefaultFile } from '../../src/config/describe-config.ts';
import { loadConfig } from '../../src/config/load-config.ts';
import { HostsFolders } from '../../src/image/hosts-folders.ts';
import { PolicyFiles } from '../../src/image/policy-files.ts';
import { Registries } from '../../src/image/registries.ts';
import { sysctlFindings } from '../../src/node/sysctl-findings.ts';
import { BUILT_IN_PROFILE_TEXT } from '../../src/runtime/apparmor-profile.ts';

const deploy = fileURLToPath(new URL('../../deploy', import.meta.url));
const dropIns = globSync(join(deploy, 'drop-ins/*.toml')).sort();
const networks = globSync(join(deploy, 'cni/*.conflist')).sort();

function folder(t: TestContext): string {
  const made = mkdtempSync(join(tmpdir(), 'berth-deploy-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

function read(path: string): string {
  return readFileSync(join(deploy, path), 'utf8');
}

/** The configuration with these drop-ins, as berthd reads it. */
function loadWith(t: TestContext, files: readonly string[]) {
  const file = join(folder(t), 'berth.toml');
  cpSync(join(deploy, 'berth.toml'), file);
  mkdirSync(`${file}.d`);
  for (const path of files) cpSync(path, join(`${file}.d`, basename(path)));
  return loadConfig({ file });
}

/** All keys with a value, as `table.key`. */
function keysOf(value: object, path = ''): string[] {
  return Object.entries(value).flatMap(([key, inner]: [string, unknown]) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? keysOf(inner, `${path}${key}.`)
      : [`${path}${key}`],
  );
}

test('berth.toml is what the schema gives, and changes nothing', (t) => {
  assert.equal(read('berth.toml'), renderDefaultFile());
  const { sources: _, ...commented } = loadWith(t, []);
  const { sources: __, ...defaults } = loadConfig({ defaultFile: '/nowhere/berth.toml' });
  assert.deepEqual(commented, defaults);
});

test('every drop-in is read by itself and says something, and all of them together', (t) => {
  assert.ok(dropIns.length >= 8);
  const { sources: _, ...defaults } = loadWith(t, []);
  for (const path of dropIns) {
    const { sources, ...config } = loadWith(t, [path]);
    assert.equal(sources.length, 2);
    assert.notDeepEqual(config, defaults, path);
  }
  assert.equal(loadWith(t, dropIns).sources.length, dropIns.length + 1);
});

test("the drop-in of kind's nodes is read", (t) => {
  const { runtime } = loadWith(t, [join(deploy, 'kind/berth.toml')]);
  assert.deepEqual([runtime.apparmorProfile, runtime.defaultRuntime], ['unconfined', 'runc']);
});

test('no two drop-ins say the same key, so that it does not matter which of them are taken', () => {
  const seen = new Map<string, string>();
  for (const path of dropIns) {
    for (const key of keysOf(parse(readFileSync(path, 'utf8')))) {
      assert.equal(seen.get(key), undefined, `${key} is in ${basename(path)} too`);
      seen.set(key, basename(path));
    }
  }
});

test('every network is one that Berth can use, with plugins that Debian has, alone in its folder', async (t) => {
  assert.ok(networks.length >= 4);
  const known = ['bridge', 'ptp', 'portmap', 'bandwidth'];
  for (const path of networks) {
    const dir = folder(t);
    cpSync(path, join(dir, basename(path)));
    const { networks: found, skipped } = await readConfDir(dir);
    assert.deepEqual(skipped, [], path);
    const [first] = found;
    assert.ok(first, path);
    assert.equal(first.network.name, 'berth');
    assert.deepEqual(
      first.network.plugins.map(({ type }) => type).filter((type) => !known.includes(type)),
      [],
    );
    assert.ok(first.network.plugins.some(({ capabilities }) => capabilities.includes('portMappings')));
  }
});

test('the files about registries and trust are understood, and every key in them is followed', async (t) => {
  const hostsDirs = [join(deploy, 'registries/certs.d')];
  const confDir = join(deploy, 'registries/registries.conf.d');
  const places = { conf: '', confDir, aliases: '', hostsDirs, certsDirs: [] };
  const registries = new Registries(places, silentLogger);
  const rules = await registries.loadRules();
  assert.deepEqual(rules.ignored, []);
  assert.equal(rules.registries.length, 3);
  assert.deepEqual(await new HostsFolders(hostsDirs, silentLogger).check(), { problems: [], ignored: [] });

  const key = join(folder(t), 'team.pub');
  const policy = join(folder(t), 'policy.json');
  writeFileSync(policy, read('registries/policy.json').replace('/etc/berth/keys/team.pub', key));
  writeFileSync(key, 'a key');
  const policies = new PolicyFiles({ file: policy, mayBeMissing: false, namespacesDir: '' }, silentLogger);
  const { problems } = await policies.check();
  assert.deepEqual(problems, []);
});

test('the settings of the kernel exist, and are what berth doctor wants', (t) => {
  const proc = folder(t);
  const lines = read('sysctl.d/90-berth.conf')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.ok(lines.length >= 10);
  for (const line of lines) {
    const [, mayBeMissing, name = '', value] = /^(-?)([a-z0-9_.-]+) = (\d+)$/.exec(line) ?? assert.fail(line);
    const file = join('sys', ...name.split('.'));
    if (mayBeMissing === '') assert.ok(existsSync(join('/proc', file)), `this kernel has no ${name}`);
    mkdirSync(join(proc, dirname(file)), { recursive: true });
    writeFileSync(join(proc, file), `${value}\n`);
  }
  assert.deepEqual(sysctlFindings(proc), []);
  const modules = read('modules-load.d/berth.conf')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  for (const name of modules) assert.match(name, /^[a-z0-9_-]+$/);
});

test('crictl.yaml and the default of berthd name the same socket', () => {
  const { listen } = loadConfig({ defaultFile: '/nowhere/berth.toml' });
  const crictl = load(read('crictl.yaml'));
  assert.deepEqual(crictl, { 'runtime-endpoint': listen, timeout: 30 });
});

test('the AppArmor profile is the one that berthd loads, and its parser takes it', (t) => {
  const file = read('apparmor.d/berth-default');
  assert.equal(file.slice(file.indexOf('\nprofile ') + 1), BUILT_IN_PROFILE_TEXT);
  const parser = '/usr/sbin/apparmor_parser';
  if (!existsSync(parser)) return t.skip('no apparmor_parser (Debian: apparmor)');
  const args = ['--skip-kernel-load', '--skip-cache', '--stdout', join(deploy, 'apparmor.d/berth-default')];
  assert.ok(execFileSync(parser, args, { stdio: ['ignore', 'pipe', 'ignore'] }).length > 1000);
});

test('logrotate understands its file, and the script in it is one', (t) => {
  const scripts = [...read('logrotate.d/berth').matchAll(/postrotate\n([\s\S]*?)endscript/g)].map(
    ([, text = '']) => text,
  );
  assert.equal(scripts.length, 1);
  for (const input of scripts) assert.equal(spawnSync('sh', ['-n'], { input }).status, 0);
  const program = '/usr/sbin/logrotate';
  if (!existsSync(program)) return t.skip('no logrotate');
  const own = folder(t);
  // It refuses files that others may write, which a checkout with another umask has.
  cpSync(join(deploy, 'logrotate.d/berth'), join(own, 'berth'));
  execFileSync('chmod', ['644', join(own, 'berth')]);
  const { status, stderr } = spawnSync(program, ['--debug', '--state', join(own, 'state'), join(own, 'berth')], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  assert.doesNotMatch(stderr, /error/i);
  assert.match(stderr, /Handling 2 logs/);
});
