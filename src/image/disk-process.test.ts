import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { isKind } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { readOwnVersion } from '../base/own-version.ts';
import type { ChildProcess, StartCommand } from '../proc/command.ts';
import { Processes } from '../proc/processes.ts';
import { encodeFrame } from './disk-channel.ts';
import { DiskProcess } from './disk-process.ts';
import { DiskWorkers } from './disk-workers.ts';
import { AbandonedJobError, LostJobError } from './running-disk-process.ts';
import { streamArchive } from './stream-archive.ts';
import { defaultTarLimits } from './tar-reader.ts';

const never = new AbortController().signal;
const EMPTY = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

describe('disk process', { timeout: 600_000 }, () => {
  let folder: string;
  let processes: Processes;
  let children: ChildProcess[];
  /** Signals that were sent to any of them. */
  let kills: string[];
  let workers: DiskWorkers;
  /** `instead` is what is started in place of the program, which is there once `arrived` is settled. */
  const open = (
    options: { idleMs?: number; startTimeoutMs?: number; cancelTimeoutMs?: number } = {},
    instead: (cmd: StartCommand) => StartCommand = (cmd) => cmd,
    arrived?: Promise<void>,
  ): DiskWorkers => {
    const start: Processes['start'] = async (cmd, signal) => {
      // Or it is started before open() returns, as a test may want it.
      if (arrived !== undefined) await arrived;
      // What has been asked for comes, whoever has given it up.
      const child = await processes.start(instead(cmd), arrived === undefined ? signal : AbortSignal.any([]));
      const kill = child.kill.bind(child);
      child.kill = (signal) => {
        kills.push(signal);
        kill(signal);
      };
      children.push(child);
      return child;
    };
    const common = { processes: { start }, log: silentLogger, version: readOwnVersion() };
    // However long a start takes, no test but that of the limit is about it.
    const process = { ...common, startTimeoutMs: 600_000, ...options };
    return new DiskWorkers({ threads: 3, process: new DiskProcess(process) });
  };
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-disk-process-'));
    processes = new Processes({ log: silentLogger, meter: silentMeter });
    children = [];
    kills = [];
    workers = open();
  });
  afterEach(async () => {
    await workers.close();
    assert.equal(processes.running, 0);
    await processes.close();
    rmSync(folder, { recursive: true });
  });

  const digest = (name: string, signal = never) => workers.run('digest', { folder, name }, signal);
  /** A file that takes an hour to read. */
  const writeEndless = (name: string): void => {
    writeFileSync(join(folder, name), '');
    truncateSync(join(folder, name), 2 ** 42);
  };
  /** Resolves when the first, second, ... child has this file open, that is when it is at work on it. */
  const opened = async (at: number, path: string): Promise<void> => {
    while (!openFiles(children[at]).includes(path)) await new Promise((resolve) => setTimeout(resolve, 2));
  };

  it('does the jobs that take long, and gives way to everybody', async () => {
    writeFileSync(join(folder, 'empty'), '');
    assert.equal(await digest('empty'), EMPTY);
    await assert.rejects(digest('none'), (err) => err instanceof Error && !(err instanceof LostJobError));
    const [child] = children;
    assert.ok(child);
    const nices = readdirSync(`/proc/${child.pid}/task`).map((tid) => getPriority(Number(tid)));
    assert.deepEqual([...new Set(nices)], [Math.max(getPriority(0), 10)]);
    assert.equal(readFileSync(`/proc/${child.pid}/comm`, 'utf8'), 'berth-disk\n');
    mkdirSync(join(folder, 'tree'));
    await workers.run('remove', join(folder, 'tree'));
    assert.equal(existsSync(join(folder, 'tree')), false);
    assert.equal(children.length, 1);
  });

  it('gives up a job that does not stop, and the process when its other jobs are done', async () => {
    await workers.close();
    workers = open({ cancelTimeoutMs: 50 });
    writeEndless('endless');
    writeEndless('other');
    const [left, leftToo] = [new AbortController(), new AbortController()];
    const [work, other] = [digest('endless', left.signal), digest('other', leftToo.signal)];
    await opened(0, join(folder, 'endless'));
    await opened(0, join(folder, 'other'));
    // As on a disk that hangs.
    children[0]?.kill('SIGSTOP');
    left.abort(new Error('the client left'));
    await assert.rejects(work, (err) => err instanceof AbandonedJobError);
    writeFileSync(join(folder, 'empty'), '');
    assert.equal(await digest('empty'), EMPTY);
    assert.equal(children.length, 2);
    assert.deepEqual(kills, ['SIGSTOP']);
    leftToo.abort(new Error('the client left'));
    await assert.rejects(other, (err) => err instanceof AbandonedJobError);
    assert.equal((await children[0]?.exited)?.signal, 'SIGKILL');
  });

  it('has no descriptor of this process but its three pipes', async () => {
    writeFileSync(join(folder, 'empty'), '');
    writeFileSync(join(folder, 'secret'), '');
    const secret = await import('node:fs/promises').then(({ open: openFile }) => openFile(join(folder, 'secret')));
    await digest('empty');
    const files = openFiles(children[0]).filter((target) => !target.startsWith('anon_inode:'));
    await secret.close();
    const own = readdirSync('/proc/self/fd').map((fd) => linkOrNothing(`/proc/self/fd/${fd}`));
    const sockets = files.filter((target) => target.startsWith('socket:'));
    assert.deepEqual(
      files.filter((target) => target.startsWith('/') && target !== '/dev/null'),
      [],
    );
    assert.deepEqual(sockets, []);
    assert.equal(files.filter((target) => own.includes(target) && target.startsWith('pipe:')).length, 3);
  });

  it('begins a job anew when the process is killed, and gives up when that comes again', async () => {
    writeEndless('endless');
    const work = digest('endless');
    await opened(0, join(folder, 'endless'));
    children[0]?.kill('SIGKILL');
    await opened(1, join(folder, 'endless'));
    children[1]?.kill('SIGKILL');
    await assert.rejects(work, (err) => {
      assert.ok(err instanceof LostJobError);
      assert.equal(err.message, 'digest: the process for work on the disk was ended by SIGKILL');
      return true;
    });
    writeFileSync(join(folder, 'empty'), '');
    assert.equal(await digest('empty'), EMPTY, 'the next job has a process again');
    assert.equal(children.length, 3);
  });

  it('does not have a job fail that was lost with another one', async () => {
    writeEndless('deadly');
    writeEndless('innocent');
    const deadly = digest('deadly');
    const left = new AbortController();
    const innocent = digest('innocent', left.signal);
    const failed = assert.rejects(innocent, /the client left/);
    await Promise.all([opened(0, join(folder, 'deadly')), opened(0, join(folder, 'innocent'))]);
    children[0]?.kill('SIGKILL');
    const holders = async (name: string): Promise<ChildProcess[]> => {
      for (;;) {
        const found = children.slice(1).filter((child) => openFiles(child).includes(join(folder, name)));
        if (found.length > 0) return found;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    };
    const [own] = await holders('deadly');
    const [other] = await holders('innocent');
    assert.ok(own && other && own !== other, 'each has a process of its own');
    own.kill('SIGKILL');
    await assert.rejects(deadly, LostJobError);
    assert.deepEqual(await holders('innocent'), [other], 'it is where it was');
    left.abort(new Error('the client left'));
    await failed;
    assert.equal((await other.exited).exitCode, 0, 'nobody else has that process');
    assert.equal(children.length, 3);
  });

  it('has threads do the work where there is no process', async () => {
    writeFileSync(join(folder, 'empty'), '');
    await workers.close();
    workers = open({}, () => {
      throw new Error('no more processes');
    });
    workers.prepare();
    assert.equal(await digest('empty'), EMPTY);
    await workers.close();
    workers = open({}, (cmd) => ({ ...cmd, args: [join(folder, 'gone.js')] }));
    assert.equal(await digest('empty'), EMPTY);
    assert.equal((await children[0]?.exited)?.exitCode, 1);
  });

  it('gives nothing to a process of another berth', async () => {
    writeFileSync(join(folder, 'words'), encodeFrame({ version: '0.0.0' }));
    await workers.close();
    workers = open({}, (cmd) => ({
      ...cmd,
      path: '/bin/sh',
      args: ['-c', `cat ${folder}/words; cat > ${folder}/heard`],
    }));
    await assert.rejects(digest('words'), (err) => {
      assert.ok(isKind(err, 'unavailable') && err instanceof Error, String(err));
      assert.match(err.message, /^berth on the disk is 0\.0\.0, and the berthd that runs .+: it must be restarted$/);
      return true;
    });
    await children[0]?.exited;
    const heard = join(folder, 'heard');
    assert.equal(existsSync(heard) ? readFileSync(heard, 'utf8') : '', '');
  });

  it('hears the first word of a process also when it stood still itself meanwhile', async () => {
    writeFileSync(join(folder, 'words'), encodeFrame({ version: readOwnVersion() }));
    const said = join(folder, 'said');
    await workers.close();
    const script = `cat ${folder}/words; echo > ${said}; cat > /dev/null`;
    workers = open({ startTimeoutMs: 1 }, (cmd) => ({ ...cmd, path: '/bin/sh', args: ['-c', script] }));
    workers.prepare();
    const still = new Int32Array(new SharedArrayBuffer(4));
    while (!existsSync(said)) Atomics.wait(still, 0, 0, 5);
    Atomics.wait(still, 0, 0, 5);
    for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.deepEqual(kills, []);
  });

  it('is not waited for at a stop while its program does not come, and ended when it does', async () => {
    await workers.close();
    const disk = Promise.withResolvers<void>();
    workers = open({}, (cmd) => ({ ...cmd, path: '/bin/sh', args: ['-c', 'exec sleep 1000'] }), disk.promise);
    workers.prepare();
    await workers.close();
    assert.equal(children.length, 0);
    disk.resolve();
    while (children.length < 1) await new Promise((resolve) => setTimeout(resolve, 2));
    assert.equal((await children[0]?.exited)?.signal, 'SIGKILL');
  });

  it('gives up a process that says nothing, and does its work', async () => {
    writeFileSync(join(folder, 'empty'), '');
    await workers.close();
    workers = open({ startTimeoutMs: 20 }, (cmd) => ({ ...cmd, path: '/bin/sh', args: ['-c', 'cat > /dev/null'] }));
    assert.equal(await digest('empty'), EMPTY);
    assert.equal((await children[0]?.exited)?.signal, 'SIGKILL');
  });

  it('is not started again while one whose disk hangs may still come', async () => {
    writeFileSync(join(folder, 'empty'), '');
    await workers.close();
    const disk = Promise.withResolvers<void>();
    let started = 0;
    workers = open(
      { startTimeoutMs: 20 },
      (cmd) => {
        started += 1;
        return { ...cmd, path: '/bin/sh', args: ['-c', 'cat > /dev/null'] };
      },
      disk.promise,
    );
    for (let job = 0; job < 3; job += 1) assert.equal(await digest('empty'), EMPTY);
    assert.equal(started, 0);
    disk.resolve();
    while (children.length < 1) await new Promise((resolve) => setTimeout(resolve, 2));
    assert.equal((await children[0]?.exited)?.signal, 'SIGKILL');
    assert.equal(await digest('empty'), EMPTY);
    assert.equal(started, 2);
  });

  it('does not come before what berthd is', async () => {
    writeFileSync(join(folder, 'empty'), '');
    await workers.close();
    workers = open({}, (cmd) => ({ ...cmd, path: '/usr/bin/nice', args: ['-n', '15', cmd.path, ...cmd.args] }));
    assert.equal(await digest('empty'), EMPTY);
    const [child] = children;
    assert.ok(child);
    const nices = readdirSync(`/proc/${child.pid}/task`).map((tid) => getPriority(Number(tid)));
    assert.ok(Math.min(...nices) >= Math.min(19, getPriority(0) + 15), nices.join());
  });

  it('removes what a killed process was making', async () => {
    const archive = join(folder, 'archive.tar');
    const target = join(folder, 'target');
    // A file of 4 GB, of which nothing is there but its header: a pax header gives what octal digits cannot.
    const { tarBytes } = await import('../../test/fakes/tar-bytes.ts');
    const bytes = tarBytes([{ name: 'large', data: Buffer.alloc(0) }]);
    bytes.write('77777777777\0', 124, 'latin1');
    bytes.write('        ', 148, 'latin1');
    const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    writeFileSync(archive, bytes.subarray(0, 512));
    truncateSync(archive, 2 ** 34);
    const left = new AbortController();
    const work = workers.run('extract', { archive, target, limits: defaultTarLimits }, left.signal);
    while (!existsSync(target)) await new Promise((resolve) => setTimeout(resolve, 2));
    left.abort(new Error('nobody waits'));
    children[0]?.kill('SIGKILL');
    await assert.rejects(work, /nobody waits/);
    assert.equal(existsSync(target), false);
  });

  it('stops at once when nobody wants the answer', async () => {
    writeEndless('endless');
    const left = new AbortController();
    const work = digest('endless', left.signal);
    await opened(0, join(folder, 'endless'));
    left.abort(new Error('the client left'));
    await assert.rejects(work, /the client left/);
    while (openFiles(children[0]).includes(join(folder, 'endless')))
      await new Promise((resolve) => setTimeout(resolve, 2));
    assert.equal(children.length, 1);
  });

  it('ends when there was nothing to do for a while, and starts again', async () => {
    await workers.close();
    workers = open({ idleMs: 1 });
    writeFileSync(join(folder, 'empty'), '');
    workers.prepare();
    while (children.length === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    assert.equal((await children[0]?.exited)?.exitCode, 0);
    assert.equal(await digest('empty'), EMPTY);
    assert.equal((await children[1]?.exited)?.exitCode, 0);
    assert.equal(children.length, 2);
  });

  it('ends with its jobs when it is closed', async () => {
    writeEndless('endless');
    const work = digest('endless');
    await opened(0, join(folder, 'endless'));
    const closed = workers.close();
    await assert.rejects(work, (err) => isKind(err, 'cancelled'));
    await closed;
    // On a very busy machine its end takes longer than is waited for it.
    const how = await children[0]?.exited;
    assert.ok(how?.exitCode === 0 || how?.signal === 'SIGTERM', JSON.stringify(how));
    await assert.rejects(digest('endless'), (err) => isKind(err, 'cancelled'));
  });

  it('ends at once when its input does, whatever it is at', async () => {
    writeEndless('endless');
    const work = digest('endless');
    work.catch(() => {});
    await opened(0, join(folder, 'endless'));
    children[0]?.stdin?.destroy();
    assert.equal((await children[0]?.exited)?.signal, 'SIGKILL');
    await opened(1, join(folder, 'endless'));
    await workers.close();
    await assert.rejects(work, (err) => isKind(err, 'cancelled'));
  });

  it('writes an archive into a descriptor of this process', async () => {
    const parts: Buffer[] = [];
    for await (const part of streamArchive(workers, [{ name: 'a', bytes: Buffer.alloc(300_000, 'x') }], never))
      parts.push(part);
    const tar = Buffer.concat(parts);
    assert.equal(tar.subarray(512, 300_512).toString(), 'x'.repeat(300_000));
  });
});

function openFiles(child: ChildProcess | undefined): string[] {
  if (!child) return [];
  try {
    const names = readdirSync(`/proc/${child.pid}/fd`);
    return names.map((fd) => linkOrNothing(`/proc/${child.pid}/fd/${fd}`));
  } catch {
    return [];
  }
}

function linkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
