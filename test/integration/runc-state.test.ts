import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { isWaiting, letGo } from '../../src/runtime/runc-state.ts';
import { killProcess } from '../../src/sys/process.ts';
import { Lab } from './runtime-lab.ts';

const signal = AbortSignal.timeout(60_000);

describe('what runc keeps of a container', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.open('runc');
  });
  after(async () => await lab[Symbol.asyncDispose]());

  const fifo = (id: string): string => join(lab.handler.root, id, 'exec.fifo');

  it('is enough to start a program, which runc then knows of', async () => {
    const { id, init } = await lab.create({ args: ['sh', '-c', 'trap "exit 7" TERM; sleep 1000 & wait'] }, signal);
    assert.equal(isWaiting(init), true);
    assert.equal(await letGo(lab.handler, id, init, signal), true);
    assert.equal(readFileSync(`/proc/${init.pid}/comm`, 'utf8'), 'sh\n', 'its program has been executed');
    assert.deepEqual(await lab.runtime.findState(id, signal), { status: 'running', pid: init.pid });
    assert.equal(existsSync(fifo(id)), false);
    assert.equal((await lab.exec(id, ['true'], signal)).exitCode, 0);
    assert.equal(await letGo(lab.handler, id, init, signal), false, 'only once');
    await assert.rejects(lab.runtime.start(id, signal), { kind: 'precondition' });
    await lab.remove(id);
  });

  it('starts each of many at the same time', async () => {
    const made = await Promise.all(
      Array.from({ length: 6 }, () => lab.create({ args: ['sh', '-c', 'exit 3'] }, signal)),
    );
    const started = await Promise.all(made.map(({ id, init }) => letGo(lab.handler, id, init, signal)));
    assert.deepEqual(new Set(started), new Set([true]));
    for (const { id } of made) {
      assert.equal((await lab.exitOf(id)).exitCode, 3);
      await lab.remove(id);
    }
  });

  it('says of a first process that was killed that it does not wait', async () => {
    const { id, init } = await lab.create({ args: ['true'] }, signal);
    killProcess(init.pid, init.startTime, 'SIGKILL');
    // It may still be a zombie: its parent is conmon.
    await lab.processes.exitOf(init.pid, init.startTime, signal);
    assert.equal(await letGo(lab.handler, id, init, signal), false);
    assert.equal(existsSync(fifo(id)), true);
    await lab.remove(id);
  });

  it('may be behind: a daemon that is killed right after it has let a program go leaves the fifo', async () => {
    const { id, init } = await lab.create({ args: ['sleep', '1000'] }, signal);
    await letGo(lab.handler, id, init, signal);
    execFileSync('mkfifo', [fifo(id)]);
    assert.equal((await lab.runtime.findState(id, signal))?.status, 'created', 'what runc says');
    assert.equal(isWaiting(init), false, 'what is so');
    await lab.remove(id);
  });
});
