/** `berth config check` where no berthd runs: what is found, what to do, and that nothing of the check is left. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { TestBerthd } from '../harness/berthd.ts';
import { readCgroups, readMounts } from '../harness/machine-state.ts';

const BERTH = fileURLToPath(new URL('../../bin/berth', import.meta.url));

interface Answer {
  readonly findings: readonly { severity: string; subject: string; message: string; remedy: string }[];
}

suite('a node without berthd', { timeout: 900_000 }, () => {
  let top: string;
  before(() => {
    top = mkdtempSync('/var/lib/berth-check-test-');
  });
  after(() => rmSync(top, { recursive: true }));

  const check = (...lines: string[]): { exitCode: number; errors: string[]; answer: Answer } => {
    const file = join(top, 'berth.toml');
    writeFileSync(file, lines.join('\n'));
    const args = ['--json', '--socket', `unix://${top}/none.sock`, 'config', 'check', '--config', file];
    let [exitCode, out] = [0, ''];
    try {
      out = execFileSync(BERTH, args, { encoding: 'utf8' });
    } catch (err) {
      const failed = err as { status: number; stdout: string };
      [exitCode, out] = [failed.status, failed.stdout];
    }
    const answer = JSON.parse(out) as Answer;
    const errors = answer.findings.filter(({ severity }) => severity === 'error').map(({ subject }) => subject);
    return { exitCode, errors, answer };
  };
  const network = (...plugins: string[]): void =>
    writeFileSync(
      join(top, 'net.d/10.conflist'),
      JSON.stringify({ cniVersion: '1.0.0', name: 'n', plugins: plugins.map((type) => ({ type })) }),
    );

  test('that has all is told so, and nothing of the check is left', () => {
    mkdirSync(join(top, 'net.d'));
    mkdirSync(join(top, 'root'), { mode: 0o711 });
    network('bridge');
    const before = [readMounts(), readCgroups()];
    const { exitCode, errors, answer } = check(`root = "${top}/root"`, '[cni]', `conf_dir = "${top}/net.d"`);
    assert.deepEqual([exitCode, errors], [0, []], JSON.stringify(answer.findings, undefined, 2));
    const shown = answer.findings.map(({ subject, message }) => `${subject}: ${message}`).join('\n');
    assert.match(shown, /runtime\.monitor_path \S+: conmon version \d/);
    assert.match(shown, /runtime\.handlers\.runc: runc version .*\/runc/);
    assert.deepEqual([readMounts(), readCgroups()], before);
    assert.deepEqual(readdirSync(join(top, 'root')), []);
  });

  test('tells how an image would be pulled, by its files alone', () => {
    writeFileSync(
      join(top, 'pull.conf'),
      '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "mirror.example/x"\n[[registry]]\nlocation = "b.example"\nblocked = true\n',
    );
    const auth = Buffer.from('me:SECRET').toString('base64');
    writeFileSync(join(top, 'auth.json'), JSON.stringify({ auths: { 'mirror.example': { auth } } }), { mode: 0o600 });
    const file = join(top, 'pull.toml');
    const keys = [`registries_conf = "${top}/pull.conf"`, `auth_file = "${top}/auth.json"`];
    writeFileSync(file, [`root = "${top}/root"`, '[image]', ...keys].join('\n'));
    const plan = (image: string): string => {
      const args = ['--socket', `unix://${top}/none.sock`, 'config', 'check', image, '--config', file];
      return execFileSync(BERTH, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    };
    const told = plan('a.example/app:v1');
    assert.match(told, /^no berthd answers; this is what one would do/);
    assert.match(
      told,
      /1\. https:\/\/mirror\.example\/v2\/x\/app \(mirror\)\n.*pull\.conf, prefix "a\.example": mirror/,
    );
    assert.match(told, /credentials {2}\S+auth\.json \(mirror\.example\)[\s\S]*2\. https:\/\/a\.example\/v2\/app\n/);
    assert.doesNotMatch(told, /SECRET|bWU6U0VDUkVU/);
    assert.throws(
      () => plan('b.example/app'),
      (err: { status: number; stdout: string }) => {
        assert.match(err.stdout, /cannot be pulled: registry of b\.example\/app is blocked/);
        return err.status === 1;
      },
    );
    assert.throws(
      () => plan('No Such Name'),
      (err: { stderr: string }) => /is not an image reference/.test(err.stderr),
    );
    assert.deepEqual(readdirSync(join(top, 'root')), []);
  });

  test('that lacks something is told what it means and what to do', () => {
    network('no-such-plugin');
    chmodSync(join(top, 'root'), 0o777);
    writeFileSync(join(top, 'registries.conf'), '[[registry]]\nprefix = 5\n');
    const { exitCode, errors, answer } = check(
      `root = "${top}/root"`,
      '[cni]',
      `conf_dir = "${top}/net.d"`,
      '[image]',
      `registries_conf = "${top}/registries.conf"`,
      '[runtime]',
      'monitor_path = "/no/conmon"',
    );
    assert.equal(exitCode, 1);
    assert.deepEqual(errors.toSorted(), [
      `cni.conf_dir ${top}/net.d`,
      `image.registries_conf ${top}/registries.conf`,
      `root ${top}/root`,
      'runtime.monitor_path /no/conmon',
    ]);
    for (const { severity, remedy, subject } of answer.findings)
      if (severity === 'error') assert.notEqual(remedy, '', subject);
  });

  test('is told of files and addresses that cannot be used, and of what Debian has no package for', () => {
    network('bridge');
    chmodSync(join(top, 'root'), 0o711);
    writeFileSync(join(top, 'auth-bad.json'), 'user:SECRET', { mode: 0o600 });
    const signed = { type: 'signedBy', keyType: 'GPGKeys', keyPath: '/no/such.gpg' };
    writeFileSync(join(top, 'policy.json'), JSON.stringify({ default: [signed] }));
    const { exitCode, errors, answer } = check(
      `root = "${top}/root"`,
      '[cni]',
      `conf_dir = "${top}/net.d"`,
      'default_network = "other"',
      '[image]',
      `auth_file = "${top}/auth-bad.json"`,
      `signature_policy = "${top}/policy.json"`,
      'pause_image = "registry.k8s.io/pause:3.10"',
      '[metrics]',
      'listen = "192.0.2.1:9190"',
      '[stream]',
      'listen = "[2001:db8::1]:0"',
      '[runtime]',
      'default_sysctls = ["kernel.panic=1"]',
      '[runtime.handlers.kata]',
      'path = "/no/kata"',
    );
    assert.equal(exitCode, 1);
    assert.deepEqual(errors.toSorted(), [
      `cni.conf_dir ${top}/net.d`,
      `image.auth_file ${top}/auth-bad.json`,
      `image.signature_policy ${top}/policy.json`,
      'metrics.listen 192.0.2.1:9190',
      'runtime.default_sysctls',
      'stream.listen [2001:db8::1]:0',
    ]);
    const of = (subject: string): string => {
      const found = answer.findings.find((finding) => finding.subject.startsWith(subject));
      return `${found?.message}; ${found?.remedy}`;
    };
    assert.match(of('cni.conf_dir'), /name a network of .* in cni\.default_network/);
    assert.match(of('image.auth_file'), /is not JSON/);
    assert.doesNotMatch(JSON.stringify(answer), /SECRET/);
    assert.match(of('image.signature_policy'), /key \/no\/such\.gpg cannot be read/);
    assert.match(of('image.pause_image'), /has no effect/);
    assert.match(of('runtime.handlers.kata'), /; install it, then .*; or name/);
    assert.ok(of('runtime.default_sysctls').includes(`correct it in ${top}/berth.toml`));
  });
});

suite('a node with berthd', { timeout: 900_000 }, () => {
  test('hears that registries.conf is broken, and that what it said before holds', async () => {
    const berthd = new TestBerthd();
    await using _ = berthd;
    const conf = join(berthd.root, 'registries.conf');
    const file = join(berthd.root, 'berth.toml');
    appendFileSync(file, `[image]\nregistries_conf = "${conf}"\n`);
    writeFileSync(conf, 'unqualified-search-registries = ["a.example"]\n');
    await berthd.start();
    const finding = (): { exitCode: number; found: string } => {
      const args = ['--json', '--socket', berthd.endpoint, 'config', 'check', '--config', file];
      const { status: exitCode, stdout } = spawnSync(BERTH, args, { encoding: 'utf8' });
      const { findings } = JSON.parse(stdout) as Answer;
      const about = findings.find(({ subject }) => subject.startsWith('image.registries_conf'));
      return { exitCode: exitCode ?? -1, found: about ? `${about.severity} ${about.message}` : '' };
    };
    writeFileSync(conf, '[[registry]]\nprefix = 5\n');
    assert.match(finding().found, /^warning what it said before holds/);
    assert.equal(finding().exitCode, 0);
    await berthd.end('SIGTERM');
    await berthd.start();
    assert.match(finding().found, /^error no image can be pulled/);
    const told = berthd
      .wholeLog()
      .split('\n')
      .filter((line) => /"level":"?(warn|40)/.test(line) && line.includes('registries.conf'));
    assert.equal(told.filter((line) => line.includes('nothing holds')).length, 1);
    assert.ok(told.every((line) => !line.includes('"stack"')));
  });
});
