import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';

import { openFdCount } from '../fakes/process-facts.ts';
import { type LabSandbox, StreamLab } from './stream-lab.ts';

const signal = AbortSignal.timeout(300_000);

describe('port-forward', () => {
  let lab: StreamLab;
  let sandbox: LabSandbox;
  before(async () => {
    lab = await StreamLab.open('runc');
    sandbox = await lab.sandbox('pod', signal);
  });
  after(async () => {
    await sandbox[Symbol.asyncDispose]();
    await lab[Symbol.asyncDispose]();
  });

  it('connects inside of the sandbox, and passes both half-closes', async () => {
    using server = await serve(sandbox, "s.on('end', () => s.end('bye'))", '127.0.0.1');
    const fds = openFdCount();
    const [client, ours] = duplexPair();
    const forward = lab.streams.portForward(sandbox.id, server.port, ours, signal);
    client.end('hello');
    assert.equal(await text(client), 'hellobye');
    await forward;
    assert.equal(openFdCount(), fds);
  });
});

interface Server extends Disposable {
  readonly port: number;
}

/** A server in a sandbox that echoes what it gets; `script` runs for each connection `s`. */
async function serve({ netns }: LabSandbox, script: string, host: string): Promise<Server> {
  const program = `
    const server = require('net').createServer({ allowHalfOpen: true }, (s) => {
      s.on('error', () => {});
      s.pipe(s, { end: false });
      ${script};
    });
    server.listen(0, '${host}', () => console.log(server.address().port));`;
  const child: ChildProcess = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  assert.ok(child.stdout);
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  return { port: Number(line), [Symbol.dispose]: () => child.kill('SIGKILL') };
}
