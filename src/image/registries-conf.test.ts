import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { candidateReferences, endpointsFor, formatEndpoint, resolveReference } from './endpoints.ts';
import { formatReference, type ImageReference, parseReference } from './reference.ts';
import { mergeRules, NO_RULES, parseRegistriesFile, RegistriesConf, type RegistryRules } from './registries-conf.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

async function rules(...texts: string[]): Promise<RegistryRules> {
  return mergeRules(texts.map((text, at) => parseRegistriesFile(text, `file${at}.conf`)));
}

function only(references: readonly ImageReference[]): string {
  assert.equal(references.length, 1);
  return references.map(formatReference).join();
}

function places(reference: string, from: RegistryRules): string[] {
  return endpointsFor(parseReference(reference), from).map(
    (endpoint) => `${formatEndpoint(endpoint)}${endpoint.insecure ? ' insecure' : ''}`,
  );
}

describe('registries.conf', () => {
  it('asks mirrors first, with the rest of the name behind their location', async () => {
    const found = await rules(`
      unknown-key = 1
      [[registry]]
      prefix = "example.com/team"
      location = "internal.example.org/x"
      insecure = true
      [[registry.mirror]]
      location = "mirror.example.org/cache"
      [[registry.mirror]]
      location = "127.0.0.1:5000"
      [[registry]]
      prefix = "example.com"
      blocked = true`);
    assert.deepEqual(places('example.com/team/app:v1', found), [
      'mirror.example.org/cache/app',
      '127.0.0.1:5000/app insecure',
      'internal.example.org/x/app insecure',
    ]);
    assert.throws(() => places('example.com/teamwork/app', found), /blocked by registries.conf/);
    assert.deepEqual(places('other.com/app', found), ['other.com/app']);
  });

  it('knows wildcards, which match subdomains only', async () => {
    const found = await rules('[[registry]]\nprefix = "*.example.com"\nlocation = "proxy.org/all"');
    assert.deepEqual(places('a.b.example.com/app', found), ['proxy.org/all/app']);
    assert.deepEqual(places('example.com/app', found), ['example.com/app']);
    assert.deepEqual(places('badexample.com/app', found), ['badexample.com/app']);
  });

  it('keeps mirrors to the pulls that they serve', async () => {
    const found = await rules(`
      [[registry]]
      location = "example.com"
      [[registry.mirror]]
      location = "tags.org"
      pull-from-mirror = "tag-only"
      [[registry.mirror]]
      location = "digests.org"
      pull-from-mirror = "digest-only"`);
    assert.deepEqual(places('example.com/app:v1', found), ['tags.org/app', 'example.com/app']);
    assert.deepEqual(places(`example.com/app:v1@${DIGEST}`, found), ['digests.org/app', 'example.com/app']);
  });

  it('connects to the API host of Docker Hub', () => {
    assert.equal(endpointsFor(parseReference('busybox'), NO_RULES)[0]?.host, 'registry-1.docker.io');
  });

  it('resolves short names by alias, then by the one search registry, then to Docker Hub', async () => {
    const found = await rules(
      'unqualified-search-registries = ["a.org"]\n[aliases]\nweb = "quay.io/team/web"\nold = "x.org/y"',
      '[aliases]\nold = ""',
    );
    assert.equal(only(resolveReference('web:v2', found)), 'quay.io/team/web:v2');
    assert.equal(only(resolveReference('old', found)), 'a.org/old:latest');
    assert.equal(only(resolveReference('quay.io/app', found)), 'quay.io/app:latest');
    assert.equal(only(resolveReference('app', NO_RULES)), 'docker.io/library/app:latest');
    const two = await rules('unqualified-search-registries = ["a.org", "docker.io"]');
    assert.throws(() => resolveReference('app', two), /ambiguous.*a\.org, docker\.io/);
    const candidates = candidateReferences('app', two).map(formatReference);
    assert.deepEqual(candidates, ['a.org/app:latest', 'docker.io/library/app:latest']);
  });

  it('asks several search registries in turn when the mode says so', async () => {
    for (const mode of ['permissive', 'disabled']) {
      const found = await rules(`short-name-mode = "${mode}"\nunqualified-search-registries = ["a.org", "b.org"]`);
      assert.deepEqual(resolveReference('app', found).map(formatReference), ['a.org/app:latest', 'b.org/app:latest']);
    }
    const later = await rules('short-name-mode = "disabled"', 'unqualified-search-registries = ["a.org", "b.org"]');
    assert.equal(resolveReference('app', later).length, 2);
    const last = await rules('short-name-mode = "disabled"', 'short-name-mode = "enforcing"');
    assert.equal(last.shortNameMode, 'enforcing');
  });

  it('refuses aliases that are no names', async () => {
    for (const line of [
      '"a.org/x" = "b.org/x"',
      '"x:v1" = "b.org/x"',
      'x = "y"',
      'x = "b.org/y:v1"',
      'x = "b.org/Y"',
    ]) {
      await assert.rejects(rules(`[aliases]\n${line}`), /file0\.conf: aliases/, line);
    }
  });

  it('may be about one tag', async () => {
    const found = await rules(
      '[[registry]]\nprefix = "a.org/x:bad"\nblocked = true\n[[registry]]\nprefix = "a.org/y:v1"\nlocation = "b.org/z:v1"',
    );
    assert.throws(() => places('a.org/x:bad', found), /blocked/);
    assert.deepEqual(places('a.org/x:good', found), ['a.org/x']);
    assert.deepEqual(places('a.org/y:v1', found), ['b.org/z']);
    await assert.rejects(rules('[[registry]]\nprefix = "a.org/y:v1"\nlocation = "b.org/z:v2"'), /has a tag/);
  });

  it('may be about one digest, whatever tag stands beside it', async () => {
    const found = await rules(
      `[[registry]]\nprefix = "a.org/x@${DIGEST}"\nblocked = true`,
      `[[registry]]\nprefix = "a.org/y@${DIGEST}"\nlocation = "b.org/z@${DIGEST}"\n[[registry]]\nlocation = "a.org/y"`,
    );
    for (const name of [`a.org/x@${DIGEST}`, `a.org/x:v1@${DIGEST}`])
      assert.throws(() => places(name, found), /blocked/);
    assert.deepEqual(places('a.org/x:v1', found), ['a.org/x']);
    assert.deepEqual(places(`a.org/x@sha256:${'b'.repeat(64)}`, found), ['a.org/x']);
    assert.deepEqual(places(`a.org/y@${DIGEST}`, found), ['b.org/z']);
    assert.deepEqual(places('a.org/y:v1', found), ['a.org/y']);
    for (const location of ['b.org/z', 'b.org/z:v1', `b.org/z@sha256:${'b'.repeat(64)}`])
      await assert.rejects(
        rules(`[[registry]]\nprefix = "a.org/y@${DIGEST}"\nlocation = "${location}"`),
        /has a digest, and location has not the same|location/,
        location,
      );
    await assert.rejects(rules('[[registry]]\nprefix = "a.org/y@sha256:12"\nlocation = "b.org"'), /prefix is neither/);
  });

  it('tells the keys that it does not follow', async () => {
    const found = await rules(`
      credential-helpers = ["secretservice"]
      [[registry]]
      location = "a.org"
      auth = "x"
      [[registry.mirror]]
      location = "b.org"
      retries = 3`);
    assert.deepEqual(
      found.ignored.map(({ file, key }) => `${file} ${key}`),
      [
        'file0.conf credential-helpers',
        'file0.conf registry "a.org".auth',
        'file0.conf registry "a.org": mirror.retries',
      ],
    );
  });

  it('takes short names from the file of those that somebody chose, and nothing else of it', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-aliases-'));
    try {
      const [file, aliases] = [join(dir, 'r.conf'), join(dir, 'short-name-aliases.conf')];
      const conf = new RegistriesConf({ file, dir: '', aliases, log: silentLogger });
      await writeFile(file, '[aliases]\nweb = "a.org/web"\nold = "a.org/old"');
      assert.equal(only(resolveReference('web', await conf.load())), 'a.org/web:latest');
      await writeFile(
        aliases,
        'unqualified-search-registries = ["evil.org"]\nshort-name-mode = "disabled"\n[aliases]\nweb = "b.org/web"\nold = ""',
      );
      const chosen = await conf.load();
      assert.equal(only(resolveReference('web:v2', chosen)), 'b.org/web:v2');
      assert.equal(only(resolveReference('old', chosen)), 'docker.io/library/old:latest');
      assert.deepEqual([chosen.searchRegistries, chosen.shortNameMode], [[], 'enforcing']);
    } finally {
      await rm(dir, { recursive: true });
    }
  });

  it('refuses version 1, broken TOML and bad values, naming file and key', async () => {
    await assert.rejects(rules('[registries.search]\nregistries = ["a.org"]'), /file0\.conf has the version 1 format/);
    await assert.rejects(rules('x = ['), /^NotTomlError: file0\.conf:1: not TOML: [^\n]*$/);
    await assert.rejects(rules('[[registry]]\nlocation = "a b"'), /file0\.conf: registry\.0\.location/);
    await assert.rejects(rules('[[registry]]\ninsecure = true'), /needs a prefix or a location/);
    await assert.rejects(rules('[[registry]]\nprefix = "*.a.org/x"\nlocation="b.org"'), /wildcard/);
  });

  it('reads the file and its drop-ins again when they change', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-image-conf-'));
    try {
      const conf = new RegistriesConf({ file: join(dir, 'r.conf'), dir: join(dir, 'r.conf.d'), log: silentLogger });
      assert.deepEqual(await conf.load(), NO_RULES);
      await writeFile(join(dir, 'r.conf'), '[[registry]]\nlocation = "a.org"\nblocked = true');
      const blocked = await conf.load();
      assert.throws(() => places('a.org/x', blocked), /blocked/);
      await mkdir(join(dir, 'r.conf.d'));
      await writeFile(join(dir, 'r.conf.d/10.conf'), '[[registry]]\nlocation = "a.org"');
      await writeFile(join(dir, 'r.conf.d/notes.txt'), 'not TOML');
      assert.deepEqual(places('a.org/x', await conf.load()), ['a.org/x']);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});
