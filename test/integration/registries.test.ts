/** Registries, credentials and trust of a whole berthd: a real registry, and signatures that skopeo and GnuPG made. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import { type AuthConfig, ImageServiceService as images, PullImageRequest } from '../../proto/gen/cri/api.ts';
import {
  type BuiltLayout,
  buildBusyboxLayout,
  missingTools,
  startRegistry,
  type TestRegistry,
} from '../fakes/images.ts';
import { PodLab } from '../harness/pod-lab.ts';

const missing = [...missingTools(), ...['/usr/bin/gpg', '/usr/bin/gpgv'].filter((path) => !existsSync(path))];
const SIGNER = 'signer@example.com';

suite('registries of a node', {
  skip: missing.length > 0 ? `not installed: ${missing.join(', ')}` : false,
  timeout: 900_000,
}, () => {
  let dir: string;
  let registry: TestRegistry;
  let layout: BuiltLayout;
  let lab: PodLab;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'berth-registries-'));
    for (const name of ['gnupg', 'registries.d', 'policies']) mkdirSync(join(dir, name), { mode: 0o700 });
    registry = await startRegistry({ auth: true });
    layout = await buildBusyboxLayout(join(dir, 'layout'), { tag: 'x' });
    gpg('--passphrase', '', '--quick-generate-key', SIGNER, 'ed25519', 'sign', 'never');
    writeFileSync(join(dir, 'key.asc'), gpg('--armor', '--export', SIGNER));
    writeFileSync(
      join(dir, 'registries.d/all.yaml'),
      `default-docker:\n  sigstore: file://${dir}/sigs\n  sigstore-staging: file://${dir}/sigs\n`,
    );
    const keys = [
      `registries_conf = "${dir}/registries.conf"`,
      `registries_conf_dir = "${dir}/registries.conf.d"`,
      `auth_file = "${dir}/config.json"`,
      `signature_policy = "${dir}/policy.json"`,
      `signature_policy_dir = "${dir}/policies"`,
      `lookaside_dir = "${dir}/registries.d"`,
    ];
    policy([{ type: 'insecureAcceptAnything' }]);
    lab = await PodLab.start({ config: ['[image]', ...keys].join('\n') });
  });

  afterEach(async (t) => {
    policy([{ type: 'insecureAcceptAnything' }]);
    for (const name of ['registries.conf', 'config.json']) rmSync(join(dir, name), { force: true });
    await lab.afterTest(t);
  });

  after(async () => {
    // First: one that listens would keep this process when something is found that was left.
    await registry?.close();
    await lab?.close();
    execFileSync('gpgconf', ['--homedir', join(dir, 'gnupg'), '--kill', 'gpg-agent'], { timeout: 30_000 });
    rmSync(dir, { recursive: true, force: true });
  });

  function gpg(...args: string[]): Buffer {
    const all = ['--batch', '--quiet', '--homedir', join(dir, 'gnupg'), ...args];
    return execFileSync('gpg', all, { stdio: 'pipe', timeout: 60_000 });
  }

  function policy(requirements: object[], file = 'policy.json'): void {
    writeFileSync(join(dir, file), JSON.stringify({ default: requirements }));
  }

  function push(target: string, signed = false): string {
    const reference = `${registry.host}/${target}`;
    const signing = signed ? ['--sign-by', SIGNER] : [];
    const where = ['--registries.d', join(dir, 'registries.d'), '--insecure-policy', 'copy', '--dest-tls-verify=false'];
    const creds = ['--dest-creds', `${registry.username}:${registry.password}`];
    const args = [...where, ...creds, ...signing, `oci:${layout.dir}:${layout.tag}`, `docker://${reference}`];
    const env = { ...process.env, GNUPGHOME: join(dir, 'gnupg') };
    execFileSync('/usr/bin/skopeo', args, { env, stdio: 'pipe', timeout: 60_000 });
    return reference;
  }

  const login = (): Partial<AuthConfig> => ({ username: registry.username, password: registry.password });
  const request = (image: string, auth?: Partial<AuthConfig>): PullImageRequest =>
    PullImageRequest.fromPartial({
      image: { image },
      ...(auth ? { auth } : {}),
      sandboxConfig: { metadata: { namespace: 'test' } },
    });

  test('a mirror serves what the registry would, with the credentials that the file has for it', async () => {
    push('mirror/team/app:v1');
    writeFileSync(
      join(dir, 'registries.conf'),
      `[[registry]]\nlocation = "nowhere.invalid"\n[[registry.mirror]]\nlocation = "${registry.host}/mirror"`,
    );
    const auth = Buffer.from(`${registry.username}:${registry.password}`).toString('base64');
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ auths: { [`${registry.host}/mirror`]: { auth } } }));
    chmodSync(join(dir, 'config.json'), 0o600);
    const image = 'nowhere.invalid/team/app:v1';
    const { plans } = await lab.berthd.call(AdminService.planPull, { image, namespace: '' });
    assert.deepEqual(
      plans[0]?.endpoints.map(({ url, credentials }) => [url, credentials]),
      [
        [`https://${registry.host}/v2/mirror/team/app`, `${dir}/config.json (${registry.host}/mirror)`],
        ['https://nowhere.invalid/v2/team/app', 'none, unless the pull brings some'],
      ],
    );
    assert.equal((await lab.berthd.call(images.pullImage, request(image))).imageRef, layout.configDigest);
    rmSync(join(dir, 'config.json'));
    const failed = await lab.berthd.fails(images.pullImage, request(image, login()));
    assert.match(failed.details, /without credentials/, 'what is for the registry is not for its mirror');
    // The password itself is a part of folders' names.
    assert.ok(!lab.berthd.wholeLog().includes(auth));
  });

  test('an image runs when its key has signed it, and no other image does', async () => {
    const [good, bad] = [push('signed:v1', true), push('unsigned:v1')];
    policy([{ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(dir, 'key.asc') }]);
    const failed = await lab.berthd.fails(images.pullImage, request(bad, login()));
    assert.equal(failed.code, status.UNKNOWN);
    assert.match(failed.details, /^SignatureValidationFailed: pull .*unsigned:v1.*it is for the name|no signature/);
    const { imageRef } = await lab.berthd.call(images.pullImage, request(good, login()));
    const pod = await lab.runPod();
    rmSync(join(dir, 'sigs'), { recursive: true });
    const image = { image: imageRef, userSpecifiedImage: good };
    assert.equal(await lab.output(pod, { image, command: ['/bin/echo', 'trusted'] }), 'trusted');
  });

  test('a policy that breaks is told of, as is that what it said before holds', async () => {
    const image = `${registry.host}/any:v1`;
    const told = async (): Promise<unknown[]> => {
      const { findings } = await lab.berthd.call(AdminService.checkConfig, {});
      const about = findings.filter(({ subject }) => subject.endsWith('/policy.json'));
      return about.map(({ severity, message }) => [severity, /^what it said before holds/.test(message)]);
    };
    const planned = { image, namespace: '' };
    assert.deepEqual((await lab.berthd.call(AdminService.planPull, planned)).plans[0]?.notes, []);
    assert.deepEqual(await told(), []);
    writeFileSync(join(dir, 'policy.json'), 'broken');
    assert.deepEqual(await told(), [['warning', true]]);
    const { plans } = await lab.berthd.call(AdminService.planPull, planned);
    assert.deepEqual([plans[0]?.requirements, plans[0]?.notes.length], [['insecureAcceptAnything'], 1]);
    rmSync(join(dir, 'policy.json'));
    assert.deepEqual(await told(), [['error', false]]);
  });

  test('a container is refused when the policy, or that of its namespace, has changed since the pull', async () => {
    const pod = await lab.runPod();
    const reference = push('free:v1');
    await lab.berthd.call(images.pullImage, request(reference, login()));
    policy([{ type: 'reject' }], 'policies/test.json');
    const fields = { image: { image: reference }, command: ['/bin/true'] };
    const refused = await lab.refused(pod, fields);
    assert.equal(refused.code, status.PERMISSION_DENIED);
    assert.match(refused.details, /^SignatureValidationFailed: use image .*is rejected by .*policies\/test\.json/);
    const volume = { containerPath: '/v', image: { image: reference }, readonly: true };
    const trusted = {
      default: [{ type: 'reject' }],
      transports: { docker: { 'example.com': [{ type: 'insecureAcceptAnything' }] } },
    };
    writeFileSync(join(dir, 'policies/test.json'), JSON.stringify(trusted));
    assert.match(
      (await lab.refused(pod, { mounts: [volume], command: ['/bin/true'] })).details,
      /^SignatureValidation/,
    );
    rmSync(join(dir, 'policies/test.json'));
    await lab.run(pod, fields);
  });
});
