import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import fc from 'fast-check';
import { stringify } from 'smol-toml';

import { describeConfig, renderDefaultFile } from './describe-config.ts';
import { keyLines } from './key-lines.ts';
import { type Config, loadConfig } from './load-config.ts';

suite('loadConfig', () => {
  let dir: string;
  let file: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-config-'));
    file = join(dir, 'berth.toml');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const load = (text: string): Config => {
    writeFileSync(file, text);
    return loadConfig({ file });
  };

  test('a node without a file has the defaults', () => {
    const config = loadConfig({ defaultFile: join(dir, 'none.toml') });
    assert.equal(config.listen, 'unix:///run/berth/berth.sock');
    assert.equal(config.cni.cacheDir, '/var/lib/berth/cni');
    assert.deepEqual(Object.keys(config.runtime.handlers), ['crun', 'runc']);
    assert.equal(config.image.pullTimeoutMs, 3_600_000);
    assert.deepEqual(config.sources, []);
  });

  test('drop-ins win over the file key by key, later over earlier, flags over all', () => {
    mkdirSync(`${file}.d`);
    writeFileSync(join(`${file}.d`, '10-a.toml'), '[log]\nlevel = "warn"\n[image]\npinned_images = ["a"]\n');
    writeFileSync(join(`${file}.d`, '20-b.toml'), '[image]\npinned_images = ["b"]\n');
    writeFileSync(join(`${file}.d`, 'notes.txt'), 'not toml');
    writeFileSync(file, 'root = "/srv/berth"\n[log]\nlevel = "debug"\nformat = "json"\n');
    const config = loadConfig({ file, overrides: { root: '/flag' } });
    assert.deepEqual(
      [config.root, config.log, config.image.pinnedImages],
      ['/flag', { level: 'warn', format: 'json' }, ['b']],
    );
    assert.deepEqual(
      config.sources.map((path) => path.slice(dir.length + 1)),
      ['berth.toml', 'berth.toml.d/10-a.toml', 'berth.toml.d/20-b.toml'],
    );
  });

  test('handlers: the built-in ones can be changed, others need a path', () => {
    const { handlers } = load(
      '[runtime.handlers.runc]\npath = "/opt/runc"\n[runtime.handlers.kata]\npath = "kata-runtime"\n',
    ).runtime;
    assert.deepEqual(handlers, {
      crun: { path: 'crun', root: '', type: 'oci' },
      runc: { path: '/opt/runc', root: '', type: 'oci' },
      kata: { path: 'kata-runtime', root: '', type: 'oci' },
    });
  });

  for (const [what, text, message] of [
    ['an unknown key', '[cni]\n\nconf_dri = "/x"\n', '3: cni.conf_dri: unknown key; did you mean conf_dir?'],
    ['an unknown table', '[cnj]\n', '1: cnj: unknown key; did you mean cni?'],
    [
      'a far-off key',
      'whatever_this_is = 1\n',
      '1: whatever_this_is: unknown key; known here: root, state, listen, image, cni, runtime, stream, metrics, log',
    ],
    [
      'a key of Object',
      '[cni]\nconstructor = 1\n',
      '2: cni.constructor: unknown key; known here: conf_dir, bin_dirs, cache_dir, default_network',
    ],
    [
      'a wrong type',
      '[image]\nmax_parallel_downloads = "six"\n',
      '2: image.max_parallel_downloads: expected a number from 1 to 64, got "six"',
    ],
    ['a relative path', '\n\nroot = "var"\n', '3: root: expected an absolute path, got "var"'],
    [
      'a bad list item',
      '[cni]\nbin_dirs = [\n "/a",\n "b",\n]\n',
      '2: cni.bin_dirs: expected an absolute path, got "b"',
    ],
    ['a bad word', '[log]\nlevel = "loud"\n', '2: log.level: expected one of debug, info, warn, error, got "loud"'],
    [
      'a bad address',
      '[metrics]\nlisten = "localhost"\n',
      '2: metrics.listen: expected an address and a port, such as 127.0.0.1:9190 or [::1]:0, got "localhost"',
    ],
    [
      'a TCP socket',
      'listen = "tcp://1.2.3.4:5"\n',
      '1: listen: expected unix:// and an absolute path of at most 107 bytes, got "tcp://1.2.3.4:5"',
    ],
    [
      'a long socket',
      `listen = "unix:///${'x'.repeat(107)}"\n`,
      `1: listen: expected unix:// and an absolute path of at most 107 bytes, got "unix:///${'x'.repeat(107)}"`,
    ],
    [
      'a bad duration',
      '[image]\npull_timeout = "soon"\n',
      '2: image.pull_timeout: expected a duration such as "30s" or "1m30s", got "soon"',
    ],
    ['a value for a table', 'cni = 3\n', '1: cni: expected a table'],
    ['a handler without a path', '[runtime.handlers.kata]\n', '1: runtime.handlers.kata: has no path'],
    [
      'an unknown key of a handler',
      '[runtime.handlers.kata]\npath = "k"\npaht = "k"\n',
      '3: runtime.handlers.kata.paht: unknown key; did you mean path?',
    ],
  ] as const) {
    test(`${what} is an error that names file, line and key`, () => {
      assert.throws(() => load(text), { kind: 'invalid', message: `${file}:${message}` });
    });
  }

  test('what is not TOML names the line', () => {
    assert.throws(
      () => load('root = "/a"\n[cni\n'),
      (err) => err instanceof Error && err.message.startsWith(`${file}:2: not TOML: `),
    );
  });

  test('a file that --config names must be there; flags are checked by their own names', () => {
    assert.throws(() => loadConfig({ file: join(dir, 'gone.toml') }), {
      message: `--config: ${join(dir, 'gone.toml')} does not exist`,
    });
    assert.throws(() => loadConfig({ defaultFile: file, overrides: { logLevel: 'loud' } }), {
      message: /^--log-level: expected one of/,
    });
  });

  test('what is shown reads back as the same configuration', () => {
    const { sources: _, ...config } = load('[image]\npinned_images = ["x*"]\n[runtime.handlers.kata]\npath = "kata"\n');
    const { sources: __, ...again } = load(describeConfig({ ...config, sources: [] }));
    assert.deepEqual(again, config);
  });

  test('deploy/berth.toml is made from the schema, and with every # removed it is the defaults', () => {
    const shipped = readFileSync(new URL('../../deploy/berth.toml', import.meta.url), 'utf8');
    assert.equal(shipped, renderDefaultFile(), 'run: npm run generate');
    const [body = ''] = shipped.split('# Runtime handlers');
    const { sources: _, ...uncommented } = load(body.replaceAll(/^# (\w+ = )/gm, '$1'));
    const { sources: __, ...defaults } = loadConfig({ defaultFile: join(dir, 'none.toml') });
    assert.deepEqual(
      { ...uncommented, cni: { ...uncommented.cni, cacheDir: '' } },
      { ...defaults, cni: { ...defaults.cni, cacheDir: '' } },
    );
  });
});

test('keyLines finds the line of every key, whatever the values hold', () => {
  const name = fc.stringMatching(/^[a-z]{1,6}$/);
  const value = fc.oneof(
    fc.string(),
    fc.integer(),
    fc.array(fc.string(), { maxLength: 3 }),
    fc.constantFrom('a = 1', '[x]', "'''", '"', '#', '\\'),
  );
  fc.assert(
    fc.property(
      fc.dictionary(name, fc.dictionary(name, value, { maxKeys: 4, noNullPrototype: true }), {
        maxKeys: 4,
        noNullPrototype: true,
      }),
      (document) => {
        const toml = stringify(document);
        const lines = toml.split('\n');
        const found = keyLines(toml);
        for (const [table, keys] of Object.entries(document)) {
          for (const key of Object.keys(keys)) {
            assert.match(
              lines[(found.get(`${table}.${key}`) ?? 0) - 1] ?? '',
              new RegExp(`^"?${key}"? =`),
              `${table}.${key} in\n${toml}`,
            );
          }
        }
      },
    ),
  );
});

test('keyLines passes over lists and texts of several lines', () => {
  const toml = 'a = [\n "x = 1", # ]\n]\nb = """\nc = 3\n"""\n[t."q.r"] # note\nd.e = { f = 1 }\n';
  assert.deepEqual(
    [...keyLines(toml)],
    [
      ['a', 1],
      ['b', 4],
      ['t', 7],
      ['t.q.r', 7],
      ['t.q.r.d', 8],
      ['t.q.r.d.e', 8],
    ],
  );
});
