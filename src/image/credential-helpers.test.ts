import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { describe as chain } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import type { Command } from '../proc/command.ts';
import { Processes } from '../proc/processes.ts';
import type { Credential } from './auth.ts';
import { AuthDocument } from './auth-file.ts';
import { CredentialHelpers } from './credential-helpers.ts';

const never = new AbortController().signal;

interface Answer {
  readonly exitCode?: number;
  readonly stdout: string;
}

class FakeRunner {
  readonly asked: string[] = [];
  readonly #answers: Readonly<Record<string, Answer>>;

  /** Answers by `program server`; who is not there has no credentials. */
  constructor(answers: Readonly<Record<string, Answer>>) {
    this.#answers = answers;
  }

  async run({ path, stdin, args }: Command) {
    assert.deepEqual(args, ['get']);
    const question = `${path} ${String(stdin).trim()}`;
    this.asked.push(question);
    const { exitCode = 0, stdout } = this.#answers[question] ?? {
      exitCode: 1,
      stdout: 'credentials not found in native keychain\n',
    };
    const out = { stdout: Buffer.from(stdout), stderr: Buffer.from('SECRET on stderr'), truncated: false };
    return { exitCode, signal: undefined, durationMs: 1, ...out };
  }
}

const answer = (username: string, secret: string): Answer => ({
  stdout: JSON.stringify({ ServerURL: 'x', Username: username, Secret: secret }),
});

function finder(file: object, answers: Readonly<Record<string, Answer>>) {
  const runner = new FakeRunner(answers);
  const document = new AuthDocument(JSON.stringify(file), '/c.json', new CredentialHelpers(runner));
  const find = (registry: string, repository = 'team/app'): Promise<Credential | undefined> =>
    document.find({ registry, repository }, never);
  return { runner, find };
}

describe('credential helpers', () => {
  it('are asked for their own registry, before entries, and for all others after them', async () => {
    const { runner, find } = finder(
      {
        auths: { 'a.org': {}, 'b.org': { auth: Buffer.from('b:1').toString('base64') }, 'c.org': { username: 'old' } },
        credHelpers: { 'c.org': 'cloud', 'https://d.org/v2/': 'cloud' },
        credsStore: 'desk',
      },
      {
        'docker-credential-desk a.org': answer('a', '1'),
        'docker-credential-cloud c.org': answer('c', '2'),
        'docker-credential-cloud d.org': answer('<token>', '3'),
        'docker-credential-desk https://index.docker.io/v1/': answer('hub', '4'),
      },
    );
    const source = (name: string): string => `docker-credential-${name} (/c.json)`;
    assert.deepEqual(await find('a.org'), { kind: 'basic', username: 'a', password: '1', source: source('desk') });
    assert.equal((await find('b.org'))?.source, '/c.json (b.org)');
    assert.deepEqual(await find('c.org'), { kind: 'basic', username: 'c', password: '2', source: source('cloud') });
    assert.deepEqual(await find('d.org'), { kind: 'identity', token: '3', source: source('cloud') });
    assert.equal((await find('docker.io'))?.kind, 'basic');
    assert.equal(await find('e.org'), undefined);
    assert.equal(runner.asked.length, 5);
  });

  it('tell nothing of what they print when they fail', async () => {
    const broken: Readonly<Record<string, Answer>> = {
      'docker-credential-x one.org': { exitCode: 2, stdout: 'SECRET' },
      'docker-credential-x two.org': { stdout: '{"Secret": "SECRET" oops' },
      'docker-credential-x three.org': { stdout: '{"Secret": "SECRET"}' },
    };
    const { find } = finder({ credsStore: 'x' }, broken);
    for (const registry of ['one.org', 'two.org', 'three.org']) {
      await assert.rejects(find(registry), (err: unknown) => {
        assert.match(chain(err), /docker-credential-x/);
        assert.ok(!chain(err).includes('SECRET'), chain(err));
        return true;
      });
    }
  });

  it('are programs of that name and nothing else', async () => {
    const { runner, find } = finder({ credsStore: '../../bin/sh' }, {});
    await assert.rejects(find('a.org'), /no name/);
    assert.deepEqual(runner.asked, []);
  });

  it('are real programs', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-helper-'));
    const before = process.env['PATH'];
    const processes = new Processes({ log: silentLogger, meter: silentMeter });
    try {
      const program = join(dir, 'docker-credential-test');
      await writeFile(
        program,
        '#!/bin/sh\nread -r server\necho "{\\"Username\\":\\"$1\\",\\"Secret\\":\\"$server\\"}"\n',
      );
      await chmod(program, 0o755);
      process.env['PATH'] = `${dir}:${before}`;
      const found = await new CredentialHelpers(processes).get('test', 'a.org', '/c.json', never);
      assert.deepEqual(found, {
        kind: 'basic',
        username: 'get',
        password: 'a.org',
        source: 'docker-credential-test (/c.json)',
      });
      await assert.rejects(new CredentialHelpers(processes).get('none', 'a.org', '/c.json', never), /could not be run/);
    } finally {
      process.env['PATH'] = before;
      await processes.close();
      await rm(dir, { recursive: true });
    }
  });
});
