import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';

import type { ContainerRecord } from '../../src/pod/records.ts';
import { mountHugetlb } from './runtime-lab.ts';
import { StreamLab, TestClient } from './stream-lab.ts';

const signal = AbortSignal.timeout(300_000);

for (const name of ['runc', 'crun']) {
  describe(`exec with streams and ${name}`, () => {
    let hugetlb: AsyncDisposable | undefined;
    let lab: StreamLab;
    let container: ContainerRecord;
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await StreamLab.open(name);
      container = await lab.run({ args: ['sleep', '1000'] }, signal);
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const start = (client: Partial<TestClient>, ...command: string[]): Promise<number> =>
      lab.streams.exec(container.id, { command, tty: false }, client, signal);
    const noFiles = (): void =>
      assert.deepEqual(
        readdirSync(lab.lab.paths(container.id).folder).filter((file) => file.startsWith('exec-')),
        [],
      );

    it('keeps input, output and errors apart, and tells the exit code', async () => {
      const client = new TestClient();
      const exec = start(client, 'sh', '-c', 'read a; echo "got $a"; echo err >&2; cat; exit 3');
      client.stdin.write('one\n');
      await client.stdout.shows(/^got one\n$/);
      await client.stderr.shows(/^err\n$/);
      client.stdin.end('two\n');
      assert.equal(await exec, 3);
      assert.deepEqual([client.stdout.text, client.stderr.text], ['got one\ntwo\n', 'err\n']);
      assert.ok(client.stdout.writableFinished && client.stderr.writableFinished);
      noFiles();
    });

    it('gives what the client did not ask for to nobody', async () => {
      const { stdout } = new TestClient();
      assert.equal(await start({ stdout }, 'sh', '-c', 'echo err >&2; cat; echo out'), 0);
      assert.equal(stdout.text, 'out\n');
    });

    const onTerminal = (client: Partial<TestClient>, ...command: string[]): Promise<number> =>
      lab.streams.exec(container.id, { command, tty: true }, client, signal);

    it('gives a terminal, with its size', async () => {
      const { stdin, stdout } = new TestClient();
      const exec = onTerminal(
        { stdin, stdout, onResize: (listener) => listener({ width: 123, height: 45 }) },
        'sh',
        '-c',
        'tty; stty size; echo $TERM; read a; echo "got $a" >&2; exit 4',
      );
      await stdout.shows(/xterm\r\n$/);
      assert.match(stdout.text, /^\/dev\/pts\/\d+\r\n45 123\r\nxterm\r\n$/);
      stdin.write('word\n');
      assert.equal(await exec, 4);
      assert.match(stdout.text, /word\r\ngot word\r\n$/);
      noFiles();
    });
  });
}
