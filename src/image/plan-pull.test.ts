import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { AuthFile } from './auth-file.ts';
import { GpgSignatures } from './gpg-signatures.ts';
import { type PullPlan, planPull } from './plan-pull.ts';
import { PolicyFiles } from './policy-files.ts';
import { Registries } from './registries.ts';
import { LookasideFolder } from './registries-d.ts';
import { RegistryClient } from './registry-client.ts';
import { Trust } from './trust.ts';

const never = new AbortController().signal;
const programs = { run: async () => await Promise.reject(new Error('no programs here')) };
let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'berth-plan-'));
});

afterEach(async () => {
  await rm(dir, { recursive: true });
});

async function plan(text: string, namespace = ''): Promise<PullPlan[]> {
  return await planPull(parts(), text, namespace, never);
}

function parts(): Parameters<typeof planPull>[0] {
  const places = {
    conf: join(dir, 'r.conf'),
    confDir: '',
    aliases: '',
    hostsDirs: [join(dir, 'hosts')],
    certsDirs: [],
  };
  const file = { file: join(dir, 'policy.json'), mayBeMissing: true, namespacesDir: dir };
  const client = new RegistryClient({ monotonicMs: () => 0 });
  const trust = new Trust({
    policies: new PolicyFiles(file, silentLogger),
    gpg: new GpgSignatures(programs, dir),
    sources: { client, lookasides: new LookasideFolder('', silentLogger) },
    acceptsUnnamed: false,
  });
  const registries = new Registries(places, silentLogger);
  const credentials = [new AuthFile(join(dir, 'auth.json'))];
  return { registries, credentials, trust };
}

describe('the plan of a pull', () => {
  it('says what is asked, in order, how and why, and nothing secret', async () => {
    await writeFile(
      join(dir, 'r.conf'),
      `[[registry]]\nlocation = "a.org"\n[[registry.mirror]]\nlocation = "m.org/cache"\ninsecure = true`,
    );
    await writeFile(
      join(dir, 'auth.json'),
      JSON.stringify({ auths: { 'a.org/team': { username: 'me', password: 'S' } } }),
    );
    await writeFile(
      join(dir, 'blue.json'),
      JSON.stringify({
        default: [{ type: 'sigstoreSigned', keyPath: join(dir, 'k.pub'), signedIdentity: { type: 'matchRepository' } }],
      }),
    );
    await writeFile(join(dir, 'k.pub'), '');
    assert.deepEqual(await plan('a.org/team/app', 'blue'), [
      {
        reference: 'a.org/team/app:latest',
        because: 'it names its registry',
        endpoints: [
          {
            url: 'https://m.org/v2/cache/team/app',
            mirror: true,
            tls: 'not verified, or plain HTTP',
            credentials: 'none, unless the pull brings some',
            serves: 'tags and content',
            because: `${dir}/r.conf, prefix "a.org": mirror`,
          },
          {
            url: 'https://a.org/v2/team/app',
            mirror: false,
            tls: "verified by the machine's authorities",
            credentials: `${dir}/auth.json (a.org/team)`,
            serves: 'tags and content',
            because: `${dir}/r.conf, prefix "a.org"`,
          },
        ],
        requirements: [`sigstoreSigned by ${dir}/k.pub (matchRepository)`],
        requirementsBecause: `${dir}/blue.json (default)`,
        problem: '',
        notes: [],
        passedOver: [],
      },
    ]);
  });

  it('is none that works where a key or all credentials cannot be used', async () => {
    const requirement = { type: 'signedBy', keyType: 'GPGKeys', keyPath: join(dir, 'k.gpg') };
    await writeFile(join(dir, 'green.json'), JSON.stringify({ default: [requirement] }));
    assert.equal((await plan('a.org/app', 'green'))[0]?.problem, `key ${dir}/k.gpg of the policy cannot be read`);
    await writeFile(join(dir, 'auth.json'), 'no JSON');
    assert.match((await plan('a.org/app'))[0]?.problem ?? '', /^the credentials are unusable: .*auth\.json/);
  });

  it('tells of changes that cannot be used, and follows what was said before', async () => {
    const kept = parts();
    await writeFile(join(dir, 'r.conf'), '[[registry]]\nlocation = "a.org"\nblocked = true');
    await writeFile(join(dir, 'policy.json'), '{"default": [{"type": "reject"}]}');
    const look = async (): Promise<PullPlan | undefined> => (await planPull(kept, 'a.org/app', '', never))[0];
    assert.deepEqual((await look())?.notes, []);
    await writeFile(join(dir, 'r.conf'), 'broken');
    await writeFile(join(dir, 'policy.json'), 'broken');
    const found = await look();
    assert.deepEqual(found?.requirements, ['reject']);
    assert.deepEqual(
      found.notes.map((note) => /r\.conf|policy\.json/.exec(note)?.[0]),
      ['r.conf', 'policy.json'],
    );
  });

  it('tells of no file that is gone, or is about other registries and namespaces', async () => {
    const kept = parts();
    const policy = join(dir, 'policy.json');
    const hosts = join(dir, 'hosts/b.org');
    const notes = async (text: string, namespace = ''): Promise<(string | undefined)[] | undefined> =>
      (await planPull(kept, text, namespace, never))[0]?.notes.map((note) => /hosts\.toml|\w+\.json/.exec(note)?.[0]);
    await mkdir(hosts, { recursive: true });
    for (const text of ['', 'broken']) {
      await writeFile(join(hosts, 'hosts.toml'), text);
      await writeFile(policy, text || '{"default": [{"type": "insecureAcceptAnything"}]}');
      await writeFile(join(dir, 'blue.json'), '{"default": [{"type": "insecureAcceptAnything"}]}');
      await planPull(kept, 'b.org/app', '', never);
    }
    assert.deepEqual(await notes('b.org/app'), ['hosts.toml', 'policy.json']);
    assert.deepEqual(await notes('c.org/app', 'blue'), []);
    assert.deepEqual(await kept.registries.olderHosts(), [join(hosts, 'hosts.toml')]);
    await rm(hosts, { recursive: true });
    await rm(policy);
    assert.deepEqual(await notes('b.org/app'), []);
    assert.deepEqual(await kept.registries.olderHosts(), []);
  });

  it('says which mirrors are passed over, and why', async () => {
    const mirrors = ['digest-only', 'tag-only'].map(
      (kind) => `[[registry.mirror]]\nlocation = "${kind}.org/x"\npull-from-mirror = "${kind}"`,
    );
    await writeFile(join(dir, 'r.conf'), ['[[registry]]\nlocation = "a.org"', ...mirrors].join('\n'));
    await mkdir(join(dir, 'hosts/b.org'), { recursive: true });
    await writeFile(
      join(dir, 'hosts/b.org/hosts.toml'),
      '[host."https://tags.org"]\ncapabilities = ["resolve"]\n[host."https://push.org"]\ncapabilities = ["push"]',
    );
    const digest = `sha256:${'a'.repeat(64)}`;
    const shown = async (text: string) => {
      const [found] = await plan(text);
      return [found?.endpoints.filter(({ mirror }) => mirror).map(({ url }) => url.split('/')[2]), found?.passedOver];
    };
    const over = (kind: string, how: string): string =>
      `mirror ${kind}.org/x is passed over: ${dir}/r.conf has it for pulls with "${kind}", this is one by ${how}`;
    assert.deepEqual(await shown('a.org/app:v1'), [['tag-only.org'], [over('digest-only', 'tag')]]);
    assert.deepEqual(await shown(`a.org/app@${digest}`), [['digest-only.org'], [over('tag-only', 'digest')]]);
    const file = `${dir}/hosts/b.org/hosts.toml`;
    const useless = `host push.org is passed over: ${file} has it neither resolve nor pull`;
    assert.deepEqual(await shown('b.org/app:v1'), [['tags.org'], [useless]]);
    const tagsOnly = `host tags.org is passed over: ${file} has it resolve tags only, this is a pull by digest`;
    assert.deepEqual(await shown(`b.org/app@${digest}`), [[], [tagsOnly, useless]]);
  });

  it('names no hosts.toml that is not there', async () => {
    await mkdir(join(dir, 'hosts/_default'), { recursive: true });
    const [found] = await plan('busybox');
    assert.deepEqual(
      found?.endpoints.map(({ because }) => because),
      [`${dir}/hosts/_default, whose hosts.toml is missing or empty: the registry itself`],
    );
  });

  it('says what hosts.toml makes of it', async () => {
    await mkdir(join(dir, 'hosts/_default'), { recursive: true });
    await writeFile(
      join(dir, 'hosts/_default/hosts.toml'),
      '[host."http://m.org:5000"]\ncapabilities = ["resolve"]\n[host."https://s.org"]\nskip_verify = true',
    );
    const [found] = await plan('busybox');
    assert.deepEqual(
      found?.endpoints.map(({ url, tls, serves }) => [url, tls, serves]),
      [
        ['http://m.org:5000/v2/library/busybox?ns=docker.io', 'none: plain HTTP', 'tags only'],
        ['https://s.org/v2/library/busybox?ns=docker.io', 'not verified', 'tags and content'],
        [
          'https://registry-1.docker.io/v2/library/busybox',
          "verified by the machine's authorities",
          'tags and content',
        ],
      ],
    );
    assert.deepEqual([found?.requirements, found?.requirementsBecause], [['insecureAcceptAnything'], 'no policy']);
  });

  it('says why nothing would be asked, and of a short name what it may mean', async () => {
    await writeFile(
      join(dir, 'r.conf'),
      `short-name-mode = "permissive"\nunqualified-search-registries = ["a.org", "b.org"]
      [[registry]]\nlocation = "a.org"\nblocked = true`,
    );
    await writeFile(
      join(dir, 'policy.json'),
      '{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {"b.org": [{"type": "reject"}]}}}',
    );
    const [a, b] = await plan('app');
    assert.match(a?.problem ?? '', /blocked by registries\.conf/);
    assert.match(a?.because ?? '', /search registries/);
    assert.match(b?.problem ?? '', /b\.org\/app:latest is rejected by .*policy\.json \(transports\.docker\."b\.org"\)/);
    await writeFile(join(dir, 'auth.json'), 'SECRET');
    const [c] = await plan('c.org/app');
    assert.match(c?.endpoints[0]?.credentials ?? '', /^unusable: auth file .* is not JSON$/);
  });
});
