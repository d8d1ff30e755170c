import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';

import { FakeMounts } from '../../test/fakes/image-mounts.ts';
import { MemoryImageStore, MemoryLayers } from '../../test/fakes/layer-folders.ts';
import {
  describeBlob,
  type FakeImage,
  FakeRegistry,
  fakeBlob,
  fakeImage,
  fakeIndex,
} from '../../test/fakes/registry.ts';
import { systemClock } from '../base/clock.ts';
import { describe as chain, isKind } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { Processes } from '../proc/processes.ts';
import { Images } from './images.ts';
import { RegistryClient } from './registry-client.ts';

const never = new AbortController().signal;
const hasGpg = ['gpg', 'gpgv'].every((name) => existsSync(`/usr/bin/${name}`));

let root: string;
let registry: FakeRegistry;
let layers: MemoryLayers;
let store: MemoryImageStore;
let images: Images;
let programs: Processes;

function build(acceptUnnamedSignatures = false): Images {
  return new Images({
    root,
    settings: {
      registriesConf: '',
      registriesConfDir: '',
      shortNameAliases: '',
      hostsDirs: [],
      certsDirs: [],
      authFile: '',
      namespacedAuthDir: '',
      signaturePolicy: join(root, 'policy.json'),
      signaturePolicyMayBeMissing: false,
      signaturePolicyDir: join(root, 'policies'),
      lookasideDir: join(root, 'registries.d'),
      acceptUnnamedSignatures,
      pinnedImages: [],
      maxParallelDownloads: 3,
      pullTimeoutMs: 20_000,
    },
    store,
    layers,
    client: new RegistryClient({
      monotonicMs: () => performance.now(),
      retry: { attempts: 1, firstWaitMs: 1, maxWaitMs: 1 },
    }),
    programs,
    readArchive: async () => [],
    writeArchive: async function* () {},
    mounts: new FakeMounts(),
    usersOf: () => [],
    log: silentLogger,
    meter: silentMeter,
    clock: systemClock,
    platform: { os: 'linux', architecture: 'amd64', variant: '' },
  });
}

beforeEach(async () => {
  registry = await FakeRegistry.start();
  root = await mkdtemp(join(tmpdir(), 'berth-trust-'));
  [layers, store] = [new MemoryLayers(), new MemoryImageStore()];
  programs = new Processes({ log: silentLogger, meter: silentMeter });
  images = build();
  await images.start();
});

afterEach(async () => {
  await images.close();
  await programs.close();
  await registry.close();
  await rm(root, { recursive: true });
});

const name = (rest: string): string => `${registry.host}/${rest}`;
const policy = async (requirements: object[], file = 'policy.json'): Promise<void> => {
  await mkdir(join(root, 'policies'), { recursive: true });
  await writeFile(join(root, file), JSON.stringify({ default: requirements }));
};
const accept = [{ type: 'insecureAcceptAnything' }];
const reject = [{ type: 'reject' }];

async function refused(work: Promise<unknown>, words: RegExp): Promise<void> {
  await assert.rejects(work, (err: unknown) => {
    assert.match(chain(err), /^SignatureValidationFailed: /);
    assert.match(chain(err), words);
    assert.ok(isKind(err, 'permission'));
    return true;
  });
}

/** The payload of simple signing. */
function payloadOf(digest: string, reference: string, type: string): Buffer {
  const critical = { type, image: { 'docker-manifest-digest': digest }, identity: { 'docker-reference': reference } };
  return Buffer.from(JSON.stringify({ critical, optional: {} }));
}

describe('a policy', () => {
  it('without signatures decides at the pull, before the registry is asked, and again at a container', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    await policy(reject);
    await refused(images.pull(name('app:v1'), undefined, never), /is rejected by .*policy\.json \(default\)/);
    assert.deepEqual(registry.seen, []);
    await policy(accept);
    const image = await images.pull(name('app:v1'), undefined, never);
    await images.checkTrust(image, name('app:v1'), '', never);
    await policy(reject);
    for (const asked of [name('app:v1'), image.id, 'whatever']) {
      await refused(images.checkTrust(image, asked, '', never), /is rejected/);
    }
  });

  it('of a namespace stands in place of the one for all', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    await policy(reject);
    await policy(accept, 'policies/blue.json');
    await refused(images.pull(name('app:v1'), undefined, never, 'green'), /rejected/);
    await refused(images.pull(name('app:v1'), undefined, never, '../policies/blue'), /rejected/);
    const image = await images.pull(name('app:v1'), undefined, never, 'blue');
    await images.checkTrust(image, name('app:v1'), 'blue', never);
    await refused(images.checkTrust(image, name('app:v1'), 'green', never), /rejected/);
  });

  it('that is missing or broken trusts nothing, and a broken change leaves what held', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    await refused(images.pull(name('app:v1'), undefined, never), /is not there, so no image is trusted/);
    await writeFile(join(root, 'policy.json'), '{');
    await refused(images.pull(name('app:v1'), undefined, never), /policy\.json is not JSON/);
    await policy(accept);
    await images.pull(name('app:v1'), undefined, never);
    await writeFile(join(root, 'policy.json'), '{"default": [] }');
    await images.pull(name('app:v1'), undefined, never);
  });

  it('that wants what nobody can verify refuses', async () => {
    registry.add('app', fakeImage(['x']), 'v1');
    await policy([{ type: 'sigstoreSigned', fulcio: {} }]);
    await refused(images.pull(name('app:v1'), undefined, never), /wants sigstoreSigned with fulcio/);
  });
});

describe('sigstoreSigned', () => {
  const COSIGN = 'cosign container image signature';
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const log = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const pem = (key: KeyObject): string => key.export({ type: 'spki', format: 'pem' }).toString();

  function signature(payload: Buffer, key: KeyObject, annotations: Readonly<Record<string, string>> = {}): FakeImage {
    const layer = fakeBlob(payload, 'application/vnd.dev.cosign.simplesigning.v1+json');
    const config = fakeBlob({}, 'application/vnd.oci.image.config.v1+json');
    const signed = {
      ...describeBlob(layer),
      annotations: {
        'dev.cosignproject.cosign/signature': sign('sha256', payload, key).toString('base64'),
        ...annotations,
      },
    };
    const type = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = fakeBlob(
      { schemaVersion: 2, mediaType: type, config: describeBlob(config), layers: [signed] },
      type,
    );
    return { manifest, config, layers: [layer], diffIds: [] };
  }

  const tagOf = (digest: string): string => `${digest.replace(':', '-')}.sig`;
  const signedPolicy = async (more: object = {}): Promise<void> => {
    await writeFile(join(root, 'key.pub'), pem(publicKey));
    const identity = { signedIdentity: { type: 'matchRepository' } };
    await policy([{ type: 'sigstoreSigned', keyPath: join(root, 'key.pub'), ...identity, ...more }]);
  };

  it('takes the signature of its key for this image, and remembers it', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await signedPolicy();
    await refused(images.pull(name('app:v1'), undefined, never), /has no signature/);
    assert.ok(!registry.paths().some((path) => path.includes(image.layers[0]?.digest ?? 'none')));
    registry.add('app', signature(payloadOf(digest, name('app'), COSIGN), privateKey), tagOf(digest));
    const pulled = await images.pull(name('app:v1'), undefined, never);
    const asked = registry.seen.length;
    await images.checkTrust(pulled, pulled.id, '', never);
    const restarted = build();
    await restarted.checkTrust(restarted.list()[0] ?? assert.fail(), name('app:v1'), '', never);
    assert.equal(registry.seen.length, asked);
  });

  it('takes a signature of the index, and one among the referrers', async () => {
    const image = fakeImage(['x']);
    const index = fakeIndex([{ blob: image.manifest, platform: 'linux/amd64' }]);
    registry.add('app', image);
    registry.addDocument('app', index, 'v1');
    await signedPolicy();
    const one = signature(payloadOf(index.digest, name('app'), COSIGN), privateKey);
    registry.add('app', one);
    const artifactType = 'application/vnd.dev.cosign.artifact.sig.v1+json';
    registry.misbehave = (req, res) => {
      if (!req.url?.startsWith(`/v2/app/referrers/${index.digest}?`)) return false;
      res.end(JSON.stringify({ manifests: [{ ...describeBlob(one.manifest), artifactType }] }));
      return true;
    };
    await images.pull(name('app:v1'), undefined, never);
  });

  it('refuses other keys, other images, other names, changed content and other kinds', async () => {
    const [image, other] = [fakeImage(['x']), fakeImage(['y'])];
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await signedPolicy();
    const right = payloadOf(digest, name('app'), COSIGN);
    const cases: [FakeImage, RegExp][] = [
      [signature(right, stranger.privateKey), /none of the keys of the policy made it/],
      [signature(payloadOf(other.manifest.digest, name('app'), COSIGN), privateKey), /is for another image/],
      [signature(payloadOf(digest, name('evil'), COSIGN), privateKey), /is for the name ".*evil"/],
      [
        signature(payloadOf(digest, name('app'), 'atomic container signature'), privateKey),
        /what was signed is no cosign/,
      ],
      [signature(Buffer.from('{}'), privateKey), /malformed/],
      [signature(right, privateKey, { 'dev.cosignproject.cosign/signature': 'AAAA' }), /none of the keys/],
    ];
    for (const [bad, words] of cases) {
      registry.add('app', bad, tagOf(digest));
      await refused(images.pull(name('app:v1'), undefined, never), words);
    }
    assert.deepEqual([images.list(), layers.all()], [[], []]);
  });

  it('asks the registry for signatures of what was pulled before they were wanted', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await policy(accept);
    const pulled = await images.pull(name('app:v1'), undefined, never);
    await signedPolicy();
    await refused(images.checkTrust(pulled, name('app:v1'), '', never), /has no signature/);
    registry.add('app', signature(payloadOf(digest, name('app'), COSIGN), privateKey), tagOf(digest));
    await images.checkTrust(pulled, name('app:v1'), '', never);
    const asked = registry.seen.length;
    await images.checkTrust(images.list()[0] ?? assert.fail(), name('app:v1'), '', never);
    assert.equal(registry.seen.length, asked);
  });

  const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json';
  const IN_TOTO = 'application/vnd.in-toto+json';

  /** What `cosign sign --key` of the third version keeps beside an image. */
  function bundleOf(
    digest: string,
    signer: KeyObject,
    more: { statement?: object; subject?: object; hash?: string | null; logged?: (signature: string) => object } = {},
  ): FakeImage {
    const [algorithm = '', hex] = digest.split(':');
    const statement = Buffer.from(
      JSON.stringify({
        _type: 'https://in-toto.io/Statement/v1',
        subject: [{ digest: { [algorithm]: hex }, ...more.subject }],
        predicateType: 'https://sigstore.dev/cosign/sign/v1',
        predicate: {},
        ...more.statement,
      }),
    );
    const message = Buffer.from(`DSSEv1 ${IN_TOTO.length} ${IN_TOTO} ${statement.length} ${statement}`);
    const sig = sign(more.hash === undefined ? 'sha256' : more.hash, message, signer).toString('base64');
    const bundle = fakeBlob(
      {
        mediaType: BUNDLE,
        verificationMaterial: { publicKey: { hint: 'x' }, ...more.logged?.(sig) },
        dsseEnvelope: { payload: statement.toString('base64'), payloadType: IN_TOTO, signatures: [{ sig }] },
      },
      BUNDLE,
    );
    const config = fakeBlob({}, 'application/vnd.oci.empty.v1+json');
    const manifest = fakeBlob(
      { schemaVersion: 2, artifactType: BUNDLE, config: describeBlob(config), layers: [describeBlob(bundle)] },
      'application/vnd.oci.image.manifest.v1+json',
    );
    return { manifest, config, layers: [bundle], diffIds: [] };
  }

  /** Puts it where registries keep it that do not know what refers to what. */
  function refer(digest: string, referrer: FakeImage, artifactType: string | undefined): void {
    registry.add('app', referrer);
    registry.addDocument(
      'app',
      fakeBlob({ manifests: [{ ...describeBlob(referrer.manifest), artifactType }] }, 'application/json'),
      digest.replace(':', '-'),
    );
  }

  it('takes bundles of cosign 3 only where signatures without a name count', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await signedPolicy();
    refer(digest, bundleOf(digest, privateKey), BUNDLE);
    await refused(
      images.pull(name('app:v1'), undefined, never),
      /it is good, but names no image.* matchRepository wants a name: .*image\.accept_unnamed_signatures/,
    );
    refer(digest, bundleOf(digest, privateKey, { subject: { name: name('app') } }), undefined);
    await images.pull(name('app:v1'), undefined, never);
    await images.remove(name('app:v1'));
    refer(digest, bundleOf(digest, privateKey, { subject: { name: name('evil') } }), undefined);
    await refused(images.pull(name('app:v1'), undefined, never), /is for the name ".*evil"/);
    await images.close();
    images = build(true);
    await images.start();
    const other = fakeImage(['y']).manifest.digest;
    const cases: [FakeImage, RegExp][] = [
      [bundleOf(digest, stranger.privateKey), /none of the keys of the policy made it/],
      [bundleOf(other, privateKey), /is for another image/],
      [bundleOf(digest, privateKey, { subject: { name: name('evil') } }), /is for the name ".*evil"/],
      [
        bundleOf(digest, privateKey, { statement: { predicateType: 'https://slsa.dev/provenance/v1' } }),
        /is an attestation \(https:\/\/slsa/,
      ],
      [
        bundleOf(digest, privateKey, { statement: { subject: [{ digest: {} }, { digest: {} }] } }),
        /about 2 things, not one image/,
      ],
      [bundleOf(digest, privateKey, { statement: { _type: 'x' } }), /no statement of in-toto/],
    ];
    for (const [bad, words] of cases) {
      refer(digest, bad, BUNDLE);
      await refused(images.pull(name('app:v1'), undefined, never), words);
    }
    assert.deepEqual([images.list(), layers.all()], [[], []]);
    refer(digest, bundleOf(digest, privateKey), 'application/vnd.oci.empty.v1+json');
    const pulled = await images.pull(name('app:v1'), undefined, never);
    const asked = registry.seen.length;
    await images.checkTrust(pulled, name('app:v1'), '', never);
    assert.equal(registry.seen.length, asked);
  });

  it('takes bundles by keys of other kinds, among the referrers too', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await images.close();
    images = build(true);
    await images.start();
    for (const [made, hash] of [
      [generateKeyPairSync('ed25519'), null],
      [generateKeyPairSync('ec', { namedCurve: 'P-384' }), 'sha384'],
      [generateKeyPairSync('ec', { namedCurve: 'P-384' }), 'sha256'],
      [generateKeyPairSync('rsa', { modulusLength: 2048 }), 'sha256'],
    ] as const) {
      await signedPolicy();
      await writeFile(join(root, 'key.pub'), pem(made.publicKey));
      const one = bundleOf(digest, made.privateKey, { hash });
      registry.add('app', one);
      registry.misbehave = (req, res) => {
        if (!req.url?.startsWith(`/v2/app/referrers/${digest}?`)) return false;
        const manifests = req.url.includes('bundle') ? [{ ...describeBlob(one.manifest), artifactType: BUNDLE }] : [];
        res.end(JSON.stringify({ manifests }));
        return true;
      };
      const { id } = await images.pull(name('app:v1'), undefined, never);
      await images.remove(id);
    }
  });

  it('wants an entry of the log of bundles too', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await images.close();
    images = build(true);
    await images.start();
    await writeFile(join(root, 'rekor.pub'), pem(log.publicKey));
    await signedPolicy({ rekorPublicKeyPath: join(root, 'rekor.pub') });
    const entry = (signer: KeyObject, hashed?: string) => (signature: string) => {
      const statement = bundleOf(digest, privateKey).layers[0]?.bytes.toString() ?? '';
      const { payload } = (JSON.parse(statement) as { dsseEnvelope: { payload: string } }).dsseEnvelope;
      const value = createHash('sha256')
        .update(hashed ?? Buffer.from(payload, 'base64'))
        .digest('hex');
      const verifier = Buffer.from(pem(publicKey)).toString('base64');
      const spec = { payloadHash: { algorithm: 'sha256', value }, signatures: [{ signature, verifier }] };
      const body = Buffer.from(JSON.stringify({ apiVersion: '0.0.1', kind: 'dsse', spec })).toString('base64');
      const promised = Buffer.from(JSON.stringify({ body, integratedTime: 5, logID: 'abcd', logIndex: 7 }));
      const signedEntryTimestamp = sign('sha256', promised, signer).toString('base64');
      const logId = { keyId: Buffer.from('abcd', 'hex').toString('base64') };
      const known = { logIndex: '7', logId, integratedTime: '5', canonicalizedBody: body };
      return { tlogEntries: [{ ...known, inclusionPromise: { signedEntryTimestamp } }] };
    };
    const second = (signature: string): object => {
      const [first] = entry(log.privateKey)(signature).tlogEntries;
      return { tlogEntries: [{ ...first, inclusionPromise: null }] };
    };
    const cases: [((signature: string) => object) | undefined, RegExp | undefined][] = [
      [undefined, /no entry in a transparency log/],
      [entry(stranger.privateKey), /did not sign its entry/],
      [entry(log.privateKey, 'else'), /about another signature/],
      [second, /no signed timestamp, as those of Rekor's second version/],
      [entry(log.privateKey), undefined],
    ];
    for (const [logged, words] of cases) {
      refer(digest, bundleOf(digest, privateKey, logged ? { logged } : {}), BUNDLE);
      const pull = images.pull(name('app:v1'), undefined, never);
      if (words) await refused(pull, words);
      else await pull;
    }
  });

  it('wants an entry of the log when the policy names its key', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await writeFile(join(root, 'rekor.pub'), pem(log.publicKey));
    await signedPolicy({ rekorPublicKeyPath: join(root, 'rekor.pub') });
    const payload = payloadOf(digest, name('app'), COSIGN);
    const made = sign('sha256', payload, privateKey).toString('base64');
    const bundle = (about: Buffer, signer: KeyObject): Record<string, string> => {
      const entry = {
        apiVersion: '0.0.1',
        kind: 'hashedrekord',
        spec: {
          data: { hash: { algorithm: 'sha256', value: createHash('sha256').update(about).digest('hex') } },
          signature: { content: made, publicKey: { content: Buffer.from(pem(publicKey)).toString('base64') } },
        },
      };
      const body = Buffer.from(JSON.stringify(entry)).toString('base64');
      const promised = { body, integratedTime: 1, logID: 'ab', logIndex: 2 };
      const SignedEntryTimestamp = sign('sha256', Buffer.from(JSON.stringify(promised)), signer).toString('base64');
      return {
        'dev.cosignproject.cosign/signature': made,
        'dev.sigstore.cosign/bundle': JSON.stringify({ SignedEntryTimestamp, Payload: promised }),
      };
    };
    const cases: [Record<string, string>, RegExp | undefined][] = [
      [{}, /no entry in a transparency log/],
      [bundle(payload, stranger.privateKey), /did not sign its entry/],
      [bundle(Buffer.from('else'), log.privateKey), /about another signature/],
      [bundle(payload, log.privateKey), undefined],
    ];
    for (const [annotations, words] of cases) {
      registry.add('app', signature(payload, privateKey, annotations), tagOf(digest));
      const pull = images.pull(name('app:v1'), undefined, never);
      if (words) await refused(pull, words);
      else await pull;
    }
  });
});

describe('signedBy', { skip: hasGpg ? false : 'no gpg and gpgv here' }, () => {
  const ATOMIC = 'atomic container signature';
  let home: string;
  const gpg = (input: Buffer | string, ...args: string[]): Buffer =>
    execFileSync('gpg', ['--batch', '--quiet', '--homedir', home, ...args], { input, stdio: 'pipe', timeout: 30_000 });

  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'berth-gpg-'));
    for (const user of ['signer', 'stranger']) {
      gpg('', '--passphrase', '', '--quick-generate-key', `${user}@example.com`, 'ed25519', 'sign', 'never');
    }
  });
  after(async () => {
    execFileSync('gpgconf', ['--homedir', home, '--kill', 'gpg-agent'], { timeout: 30_000 });
    await rm(home, { recursive: true, force: true });
  });

  async function signedPolicy(armor: boolean, more: object = {}): Promise<void> {
    const key = gpg('', ...(armor ? ['--armor'] : []), '--export', 'signer@example.com');
    await writeFile(join(root, 'key'), key);
    await policy([{ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(root, 'key'), ...more }]);
    await mkdir(join(root, 'registries.d'), { recursive: true });
    const yaml = `default-docker:\n  lookaside: file:///nowhere\ndocker:\n  ${registry.host}:\n    sigstore: file://${root}/sigs\n`;
    await writeFile(join(root, 'registries.d/a.yaml'), yaml);
  }

  async function putSignature(repository: string, digest: string, number: number, message: Buffer): Promise<void> {
    const folder = join(root, 'sigs', `${repository}@${digest.replace(':', '=')}`);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, `signature-${number}`), message);
  }

  const signed = (payload: Buffer, user = 'signer'): Buffer => gpg(payload, '-u', `${user}@example.com`, '--sign');

  it('takes the signature of its key from the lookaside, armored or not, and remembers it', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('team/app', image, 'v1');
    for (const armor of [true, false]) {
      await signedPolicy(armor);
      await rm(join(root, 'sigs'), { recursive: true, force: true });
      await refused(images.pull(name('team/app:v1'), undefined, never), /has no signature/);
      await putSignature('team/app', digest, 1, signed(payloadOf(digest, name('team/app:v1'), ATOMIC)));
      await images.pull(name('team/app:v1'), undefined, never);
    }
    await rm(join(root, 'sigs'), { recursive: true });
    const [pulled = assert.fail()] = images.list();
    await images.checkTrust(pulled, name('team/app:v1'), '', never);
    assert.deepEqual(await readdir(join(root, 'image/gpgv')), []);
  });

  it('takes one good signature among bad ones, and says what is wrong when all are', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await signedPolicy(true);
    const right = payloadOf(digest, name('app:v1'), ATOMIC);
    const changed = signed(right);
    changed.writeUInt8(changed.readUInt8(changed.length - 5) ^ 1, changed.length - 5);
    const bad: [Buffer, RegExp][] = [
      [signed(right, 'stranger'), /does not trust the key/],
      [changed, /changed after it was signed|no message with one good signature/],
      [signed(payloadOf(digest, name('app:v2'), ATOMIC)), /is for the name/],
      [signed(payloadOf(`sha256:${'0'.repeat(64)}`, name('app:v1'), ATOMIC)), /is for another image/],
      [right, /no message with one good signature/],
      [Buffer.concat([signed(right, 'stranger'), signed(right)]), /does not trust|no message with one good/],
    ];
    for (const [message, words] of bad) {
      await rm(join(root, 'sigs'), { recursive: true, force: true });
      await putSignature('app', digest, 1, message);
      await refused(images.pull(name('app:v1'), undefined, never), words);
    }
    await putSignature('app', digest, 2, signed(right));
    await images.pull(name('app:v1'), undefined, never);
  });

  it('takes signatures that the registry itself keeps', async () => {
    const image = fakeImage(['x']);
    const { digest } = image.manifest;
    registry.add('app', image, 'v1');
    await signedPolicy(false);
    const content = signed(payloadOf(digest, name('app:v1'), ATOMIC)).toString('base64');
    registry.misbehave = (req, res) => {
      if (req.url === '/v2/') return Boolean(res.setHeader('X-Registry-Supports-Signatures', '1').end());
      if (req.url !== `/extensions/v2/app/signatures/${digest}`) return false;
      res.end(JSON.stringify({ signatures: [{ schemaVersion: 2, name: `${digest}@1`, type: 'atomic', content }] }));
      return true;
    };
    await images.pull(name('app:v1'), undefined, never);
  });

  it('refuses a small message with a large content, and keeps none of that', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'v1');
    await signedPolicy(false);
    const message = signed(Buffer.alloc(20_000_000));
    assert.ok(message.length < 1_000_000);
    await putSignature('app', image.manifest.digest, 1, message);
    await refused(images.pull(name('app:v1'), undefined, never), /it is no message with one good signature/);
    assert.deepEqual(await readdir(join(root, 'image/gpgv')), []);
  });

  it('refuses what it cannot verify, and says what is missing', async () => {
    const image = fakeImage(['x']);
    registry.add('app', image, 'v1');
    await signedPolicy(false);
    await putSignature(
      'app',
      image.manifest.digest,
      1,
      signed(payloadOf(image.manifest.digest, name('app:v1'), ATOMIC)),
    );
    const path = process.env['PATH'];
    process.env['PATH'] = '/nowhere';
    try {
      await refused(images.pull(name('app:v1'), undefined, never), /without gpgv; on Debian: apt-get install gpgv/);
    } finally {
      process.env['PATH'] = path;
    }
    await rm(join(root, 'key'));
    await refused(images.pull(name('app:v1'), undefined, never), /key .* of the policy cannot be read/);
    assert.match(await readFile(join(root, 'policy.json'), 'utf8'), /signedBy/);
  });
});
