import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { letGo, plainState, settleStart } from '../../src/runtime/runc-state.ts';
import { killProcess } from '../../src/sys/process.ts';
import { Lab } from './runtime-lab.ts';

const signal = AbortSignal.timeout(60_000);

describe('what runc keeps of a container', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.open('runc');
  });
  after(async () => await lab[Symbol.asyncDispose]());

  const fifo = (folder: string): string => join(folder, 'exec.fifo');
  const create = async (args: readonly string[]) => {
    const made = await lab.create({ args }, signal);
    const folder = plainState(lab.handler, made.id);
    assert.ok(folder, 'runc keeps nothing else');
    return { ...made, folder };
  };

  it('is enough to start a program, which runc then knows of', async () => {
    const { id, init, folder } = await create(['sh', '-c', 'trap "exit 7" TERM; sleep 1000 & wait']);
    assert.equal(settleStart(folder, init), 'waiting');
    assert.equal(await letGo(folder, init, signal), true);
    assert.equal(readFileSync(`/proc/${init.pid}/comm`, 'utf8'), 'sh\n', 'its program has been executed');
    assert.deepEqual(await lab.runtime.findState(id, signal), { status: 'running', pid: init.pid });
    assert.equal(existsSync(fifo(folder)), false);
    assert.equal((await lab.exec(id, ['true'], signal)).exitCode, 0);
    assert.equal(await letGo(folder, init, signal), false, 'only once');
    await assert.rejects(lab.runtime.start(id, signal), { kind: 'precondition' });
    await lab.remove(id);
  });

  it('starts each of many at the same time', async () => {
    const made = await Promise.all(Array.from({ length: 6 }, () => create(['sh', '-c', 'exit 3'])));
    const started = await Promise.all(made.map(({ folder, init }) => letGo(folder, init, signal)));
    assert.deepEqual(new Set(started), new Set([true]));
    for (const { id } of made) {
      assert.equal((await lab.exitOf(id)).exitCode, 3);
      await lab.remove(id);
    }
  });

  it('does not give up a process that it has let go, whoever gives up meanwhile', async () => {
    const { id, init, folder } = await create(['sh', '-c', 'exit 3']);
    const leaves = new AbortController();
    killProcess(init.pid, init.startTime, 'SIGSTOP');
    const started = letGo(folder, init, leaves.signal);
    leaves.abort();
    killProcess(init.pid, init.startTime, 'SIGCONT');
    assert.equal(await started, true);
    assert.equal((await lab.exitOf(id)).exitCode, 3);
    await lab.remove(id);
    const other = await create(['true']);
    await assert.rejects(letGo(other.folder, other.init, leaves.signal), { name: 'AbortError' });
    assert.equal((await lab.runtime.findState(other.id, signal))?.status, 'created', 'nor lets go for nobody');
    await lab.remove(other.id);
  });

  it('says of a first process that was killed that it did not go', async () => {
    const { id, init, folder } = await create(['true']);
    killProcess(init.pid, init.startTime, 'SIGSTOP');
    const started = letGo(folder, init, signal);
    killProcess(init.pid, init.startTime, 'SIGKILL');
    assert.equal(await started, false);
    assert.equal(await letGo(folder, init, signal), false, 'also of a zombie');
    assert.equal(existsSync(fifo(folder)), true);
    await lab.remove(id);
  });

  it('may be behind: a daemon that is killed right after it has let a program go leaves the fifo', async () => {
    const { id, init, folder } = await create(['sleep', '1000']);
    await letGo(folder, init, signal);
    execFileSync('mkfifo', [fifo(folder)]);
    assert.equal((await lab.runtime.findState(id, signal))?.status, 'created', 'what runc says');
    assert.equal(settleStart(folder, init), 'executed', 'what is so');
    assert.equal((await lab.runtime.findState(id, signal))?.status, 'running', 'what runc says from then on');
    await lab.remove(id);
  });
});
