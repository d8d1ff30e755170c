import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import type { ContainerRecord } from '../../src/pod/records.ts';
import { killProcess } from '../../src/sys/process.ts';
import { mountHugetlb } from './runtime-lab.ts';
import { StreamLab, TestClient } from './stream-lab.ts';

const signal = AbortSignal.timeout(300_000);
/** Answers each line of its input, and tells of the input's end. */
const ECHO = 'echo before; while read line; do echo "got $line"; echo "err $line" >&2; done; echo eof; sleep 1000';

for (const name of ['runc', 'crun']) {
  describe(`attach with ${name}`, () => {
    let hugetlb: AsyncDisposable | undefined;
    let lab: StreamLab;
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await StreamLab.open(name);
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const echo = async (spec: Partial<ContainerRecord['spec']>): Promise<ContainerRecord> =>
      await lab.run(
        { args: ['sh', '-c', ECHO], spec: { stdin: true, ...spec }, logFile: join(lab.lab.folder, 'echo.log') },
        signal,
      );
    const attach = (
      { id, spec }: ContainerRecord,
      client: Partial<TestClient>,
      leave: AbortSignal = signal,
    ): Promise<void> => lab.streams.attach(id, { tty: spec.tty }, client, leave);
    const kill = ({ init }: ContainerRecord): void => {
      assert.ok(init && killProcess(init.pid, init.startTime, 'SIGKILL'));
    };

    it('passes input and both outputs, from now on, until the container ends', async () => {
      const container = await echo({});
      await logged('echo.log', 'before');
      const client = new TestClient();
      const attached = attach(container, client);
      client.stdin.write('one\n');
      await client.stdout.shows(/^got one\n$/);
      await client.stderr.shows(/^err one\n$/);
      kill(container);
      await attached;
      assert.ok(client.stdout.writableFinished && client.stderr.writableFinished);
    });

    const logged = async (file: string, text: string): Promise<void> => {
      while (!readFileSync(join(lab.lab.folder, file), 'utf8').includes(text))
        await new Promise((resolve) => setTimeout(resolve, 5));
    };
  });
}
