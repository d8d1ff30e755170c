import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import fc from 'fast-check';
import { stringify } from 'smol-toml';

import { kindOf } from '../base/errors.ts';
import { formatDuration, parseDuration } from './check-value.ts';
import { ConfigError } from './config-problems.ts';
import { describeConfig, renderDefaultFile } from './describe-config.ts';
import { keyLines } from './key-lines.ts';
import { type Config, loadConfig } from './load-config.ts';
import { type KeySpec, type Kind, TABLES } from './schema.ts';

/** Values that a key of this kind may have. */
function valuesOf(kind: Kind): fc.Arbitrary<unknown> {
  const path = fc.string({ unit: 'binary' }).map((text) => `/${text.replaceAll('\0', '')}`);
  const name = fc.stringMatching(/^[\w.-]{1,8}$/);
  switch (kind.type) {
    case 'text':
      return fc.string({ unit: 'binary' });
    case 'path':
      return kind.mayBeEmpty ? fc.oneof(path, fc.constant('')) : path;
    case 'program':
      return fc.oneof(path, name);
    case 'name':
      return name;
    case 'word':
      return fc.constantFrom(...kind.words);
    case 'socket':
      return fc.stringMatching(/^[a-z]{1,50}$/).map((text) => `unix:///run/${text}`);
    case 'address':
      return fc.tuple(fc.constantFrom('127.0.0.1', '[::1]', 'node'), fc.nat(65_535)).map((parts) => parts.join(':'));
    case 'duration':
      return fc.integer({ min: 1, max: 2_147_483_647 }).map(formatDuration);
    case 'switch':
      return fc.boolean();
    case 'setting':
      return fc.stringMatching(/^[a-z.]{1,8}=[ -~]{0,8}$/);
    case 'ulimit':
      return fc.constantFrom('nofile=1024', 'core=0:-1', 'memlock=-1');
    case 'count':
      return fc.integer({ min: kind.min, max: kind.max });
    case 'list':
      return fc.array(valuesOf(kind.of), { maxLength: 3 });
  }
}

/** Documents that set some of the keys in tables; those that must fit each other are left alone. */
const anyDocument: fc.Arbitrary<Record<string, Record<string, unknown> | undefined>> = fc.record(
  Object.fromEntries(
    Object.entries(TABLES).map(([table, keys]) => [
      table,
      fc.record(
        Object.fromEntries(
          Object.entries<KeySpec>(keys)
            .filter(([key]) => !key.startsWith('tls_') && key !== 'default_runtime')
            .map(([key, { kind }]) => [key, valuesOf(kind)]),
        ),
        { requiredKeys: [], noNullPrototype: true },
      ),
    ]),
  ),
  { requiredKeys: [], noNullPrototype: true },
);

function inConfig(config: Config, table: string, key: string): unknown {
  const camel = key.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const section: unknown = Object.entries(config).find(([name]) => name === table)?.[1];
  return Object.entries(Object(section)).find(([name]) => name === camel)?.[1];
}

test('a duration reads back as what was written', () => {
  fc.assert(
    fc.property(fc.nat(2_147_483_647), (durationMs) => {
      assert.equal(parseDuration(formatDuration(durationMs)), durationMs);
    }),
  );
  assert.deepEqual(['1m30s', '250ms', '1h'].map(parseDuration), [90_000, 250, 3_600_000]);
  assert.deepEqual(['', '5', 's', '1.5s', '-1s', '1 s', '600h'].map(parseDuration), Array(7).fill(undefined));
});

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
      crun: { path: 'crun', root: '', type: 'oci', annotations: [], privilegedWithoutHostDevices: false },
      runc: { path: '/opt/runc', root: '', type: 'oci', annotations: [], privilegedWithoutHostDevices: false },
      kata: { path: 'kata-runtime', root: '', type: 'oci', annotations: [], privilegedWithoutHostDevices: false },
    });
  });

  for (const [what, text, message] of [
    ['an unknown key', '[cni]\n\nconf_dri = "/x"\n', '3: cni.conf_dri: unknown key; did you mean conf_dir?'],
    ['an unknown table', '[cnj]\n', '1: cnj: unknown key; did you mean cni?'],
    [
      'a far-off key',
      'whatever_this_is = 1\n',
      '1: whatever_this_is: unknown key; known here: root, state, listen, image, cni, runtime, stream, cluster, metrics, tracing, log',
    ],
    [
      'a key of Object',
      '[cni]\nconstructor = 1\n',
      '2: cni.constructor: unknown key; known here: conf_dir, bin_dirs, cache_dir, default_network, conf_template, spare_networks, late_close',
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
      'a URL where an address belongs',
      '[tracing]\nendpoint = "http://127.0.0.1:4317"\n',
      '2: tracing.endpoint: expected an address and a port and no more, as "127.0.0.1:4317", got "http://127.0.0.1:4317"',
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
    ['a value for a table', 'cni = 3\n', '1: cni: expected a table, got 3'],
    ['a list of tables', '\n[[runtime]]\n', '2: runtime: expected a table, got a list'],
    [
      'no number',
      '[runtime]\npids_limit = nan\n',
      '2: runtime.pids_limit: expected a number from 0 to 4194304, got NaN',
    ],
    [
      'no time at all',
      '[image]\npull_timeout = "0s"\n',
      '2: image.pull_timeout: expected a duration such as "30s" or "1m30s", got "0s"',
    ],
    [
      'a socket that is a folder',
      'listen = "unix:///run/"\n',
      '1: listen: expected unix:// and an absolute path of at most 107 bytes, got "unix:///run/"',
    ],
    ['a key inside braces', '\nruntime = { pids_limit = "x" }\n', /^:2: runtime\.pids_limit: expected a number/],
    ['a key after quotes in a row', "root = '''\n/a''''\nstate = 3\n", /^:3: state: expected an absolute path, got 3$/],
    [
      'a handler that reads as a key of another',
      '[runtime.handlers."runc.path"]\npath = "x"\n',
      '1: runtime.handlers.runc.path: a handler is named by at most 63 small letters, digits and -',
    ],
    [
      'a handler called auto',
      '[runtime.handlers.auto]\npath = "x"\n',
      '1: runtime.handlers.auto: auto stands for the first that works, so no handler has this name',
    ],
    [
      'a default that is no handler',
      '[runtime]\ndefault_runtime = "rnc"\n',
      '2: runtime.default_runtime: no handler is called rnc; did you mean runc?',
    ],
    [
      'a certificate without its key',
      '[stream]\ntls_cert = "/c"\n',
      '2: stream.tls_cert: needs stream.tls_key as well',
    ],
    [
      'certificates of clients without one of its own',
      '[stream]\ntls_client_ca = "/c"\n',
      '2: stream.tls_client_ca: needs stream.tls_cert as well',
    ],
    ['a handler without a path', '[runtime.handlers.kata]\n', '1: runtime.handlers.kata: has no path'],
    [
      'an unknown key of a handler',
      '[runtime.handlers.kata]\npath = "k"\npaht = "k"\n',
      '3: runtime.handlers.kata.paht: unknown key; did you mean path?',
    ],
  ] as const) {
    test(`${what} is an error that names file, line and key`, () => {
      assert.throws(
        () => load(text),
        (err) => {
          assert.ok(err instanceof Error && kindOf(err) === 'invalid');
          if (typeof message === 'string') assert.equal(err.message, `${file}:${message}`);
          else assert.match(err.message.slice(file.length), message);
          return true;
        },
      );
    });
  }

  test('all mistakes are told, in the order of files and lines', () => {
    mkdirSync(`${file}.d`);
    const dropIn = join(`${file}.d`, '10.toml');
    writeFileSync(dropIn, '[stream]\ntls_cert = "/c"\n[cni]\nbin_dirs = 1\n');
    writeFileSync(file, '[log]\nlevel = "loud"\n[runtime.handlers.a]\npath = 1\n[image]\npul_timeout = "1s"\n[cnj]\n');
    assert.throws(
      () => loadConfig({ file, overrides: { root: 'var' } }),
      (err) => {
        assert.ok(err instanceof ConfigError);
        const found = err.problems.map((problem) => problem.replaceAll(`${dir}/`, '').replace(/(: [^:]*$)/, ''));
        assert.deepEqual(found, [
          'berth.toml:2: log.level',
          'berth.toml:4: runtime.handlers.a.path',
          'berth.toml:6: image.pul_timeout',
          'berth.toml:7: cnj',
          'berth.toml.d/10.toml:4: cni.bin_dirs',
          '--root',
          'berth.toml.d/10.toml:2: stream.tls_cert',
        ]);
        return true;
      },
    );
  });

  test('nothing is concluded from a file that is no TOML, and its neighbours are checked all the same', () => {
    mkdirSync(`${file}.d`);
    writeFileSync(join(`${file}.d`, '10.toml'), '[runtime.handlers.kata]\npath = \n');
    writeFileSync(join(`${file}.d`, '20.toml'), 'root = 1\n');
    writeFileSync(file, '[runtime]\ndefault_runtime = "kata"\n');
    assert.throws(
      () => loadConfig({ file }),
      (err) => {
        assert.ok(err instanceof ConfigError && err.problems.length === 2, String(err));
        assert.match(err.problems[0] ?? '', /10\.toml:2: not TOML: /);
        assert.match(err.problems[1] ?? '', /20\.toml:1: root: /);
        return true;
      },
    );
  });

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

  test('what belongs together may stand in several files, in any order', () => {
    mkdirSync(`${file}.d`);
    writeFileSync(join(`${file}.d`, '10.toml'), '[runtime.handlers.kata]\nroot = "/x"\n[stream]\ntls_key = "/k"\n');
    writeFileSync(join(`${file}.d`, '20.toml'), '[runtime.handlers.kata]\npath = "/kata"\n[stream]\ntls_cert = "/c"\n');
    const config = load('[runtime]\ndefault_runtime = "kata"\n');
    assert.deepEqual(config.runtime.handlers['kata'], {
      path: '/kata',
      root: '/x',
      type: 'oci',
      annotations: [],
      privilegedWithoutHostDevices: false,
    });
    rmSync(join(`${file}.d`, '20.toml'));
    const dropIn = join(`${file}.d`, '10.toml');
    assert.throws(() => loadConfig({ file }), {
      problems: [
        `${dropIn}:1: runtime.handlers.kata: has no path`,
        `${dropIn}:4: stream.tls_key: needs stream.tls_cert as well`,
      ],
    });
  });

  test('whatever is configured is in force, and is shown so that it reads back', () => {
    fc.assert(
      fc.property(anyDocument, (document) => {
        const config = load(stringify(document));
        for (const [name, table] of Object.entries(document)) {
          for (const [key, value] of Object.entries(table ?? {})) {
            const isDuration = key === 'pull_timeout';
            const found = inConfig(config, name, isDuration ? `${key}_ms` : key);
            if (isDuration) assert.equal(formatDuration(Number(found)), value);
            else if (value !== '') assert.deepEqual(found, value, `${name}.${key}`);
          }
        }
        const { sources: _, ...shown } = load(describeConfig(config));
        const { sources: __, ...before } = config;
        assert.deepEqual(shown, before);
      }),
      { numRuns: 60 },
    );
  });

  test('what is shown reads back as the same configuration', () => {
    const { sources: _, ...config } = load(
      '[image]\npinned_images = ["x*", "del\\u007f"]\n[runtime.handlers.kata]\npath = "kata"\n',
    );
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
