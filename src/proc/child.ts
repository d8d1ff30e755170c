import { openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

import { BerthError } from '../base/errors.ts';
import { closeFd } from '../sys/at.ts';
import { type ExitStatus, peekPidfd, pidfdExited, pidfdOpen, pidfdSendSignal, reapKilled } from '../sys/pidfd.ts';
import { createPipe, duplicateFd } from '../sys/pipe.ts';
import { setSessionNice } from '../sys/process.ts';
import type { SignalName } from '../sys/signals.ts';
import { posixSpawnInPool } from '../sys/spawn.ts';
import type { ChildProcess, StartCommand } from './command.ts';
import type { Reaper } from './reaper.ts';

/** Every pipe holds at least one page, so that much can be written before anybody reads. */
const PIPE_ROOM_BYTES = 4096;
/** After standard input, output and error. */
const FIRST_FREE_FD = 3;
/** A process in an uninterruptible wait does not die; whoever killed it shall not hang with it. */
const UNKILLABLE_MS = 10_000;

/**
 * Starts a child with its streams. `input` is what goes to its stdin; it then ends. Descriptors of the caller may be
 * closed once this has been called, even if it never settles. Throws what `posixSpawn` throws, and leaves nothing open.
 */
export async function startChild(cmd: StartCommand, reaper: Reaper, input?: Uint8Array): Promise<Child> {
  const handedOver: number[] = [];
  const streams: Socket[] = [];
  try {
    const extraFds = (cmd.extraFds ?? []).map((fd) => copyOf(fd, handedOver));
    const stdin = stdinEnds(cmd.stdin ?? 'ignore', input, handedOver, streams);
    const stdout = outputEnds(cmd.stdout ?? 'ignore', handedOver, streams);
    const stderr = outputEnds(cmd.stderr ?? 'ignore', handedOver, streams);
    const pid = await posixSpawnInPool({
      path: cmd.path,
      args: cmd.args,
      env: cmd.env ?? { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin' },
      cwd: cmd.cwd,
      fds: [stdin.fd, stdout.fd, stderr.fd, ...extraFds],
      newSession: cmd.newSession,
    });
    if (cmd.newSession && cmd.sessionNice !== undefined) setSessionNice(pid, cmd.sessionNice);
    const hasGroup = cmd.newSession === true;
    const own = { stdin: stdin.stream, stdout: stdout.stream, stderr: stderr.stream };
    return new Child(pid, { hasGroup, letFinishMs: cmd.letFinishMs ?? 0 }, reaper, own);
  } catch (err) {
    for (const stream of streams) stream.destroy();
    throw err;
  } finally {
    for (const fd of handedOver) closeFd(fd);
  }
}

/** A child of this process, from its start until its end. A reaper has it then. */
export class Child implements ChildProcess {
  readonly pid: number;
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  readonly exited: Promise<ExitStatus>;
  readonly #hasGroup: boolean;
  readonly #letFinishMs: number;
  readonly #reaper: Reaper;
  readonly #pidfd: number;
  #hasEnded = false;
  #terminating = false;

  constructor(
    pid: number,
    { hasGroup, letFinishMs }: { readonly hasGroup: boolean; readonly letFinishMs: number },
    reaper: Reaper,
    streams: Pick<ChildProcess, 'stdin' | 'stdout' | 'stderr'>,
  ) {
    this.pid = pid;
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.#hasGroup = hasGroup;
    this.#letFinishMs = letFinishMs;
    this.#reaper = reaper;
    this.#pidfd = openChild(pid, hasGroup);
    this.exited = this.#untilEnd();
    this.exited.catch(() => {});
  }

  kill(signal: SignalName): void {
    if (this.#hasEnded) return;
    // A group has no descriptor, but as long as its leader is not reaped its number is not given to another.
    if (this.#hasGroup) killGroup(this.pid, signal);
    else pidfdSendSignal(this.#pidfd, signal);
  }

  /** For one that nobody wants any more: as terminate(), once the time is over in which it may end by itself. */
  async abandon(graceMs: number): Promise<void> {
    if (this.#letFinishMs > 0) {
      // Its time is short now.
      if (this.#hasGroup && !this.#hasEnded) setSessionNice(this.pid, 0);
      if (await this.#endsWithin(this.#letFinishMs)) return;
    }
    await this.terminate(graceMs);
  }

  /** For one that nobody has looked at, and that shall not begin: kills it, and lets go of its streams. */
  async discard(): Promise<void> {
    for (const stream of [this.stdin, this.stdout, this.stderr]) stream?.destroy();
    this.#terminating = true;
    this.kill('SIGKILL');
    await this.#endsWithin(UNKILLABLE_MS);
  }

  async terminate(graceMs: number): Promise<void> {
    this.#terminating = true;
    this.kill('SIGTERM');
    if (await this.#endsWithin(graceMs)) return;
    this.kill('SIGKILL');
    await this.#endsWithin(UNKILLABLE_MS);
  }

  async #endsWithin(ms: number): Promise<boolean> {
    const stop = new AbortController();
    const expired = delay(ms, false, { signal: stop.signal }).catch(() => false);
    try {
      return await Promise.race([this.exited.then(() => true), expired]);
    } finally {
      stop.abort();
    }
  }

  async #untilEnd(): Promise<ExitStatus> {
    try {
      await pidfdExited(this.#pidfd);
      if (this.#terminating && this.#hasGroup) killGroup(this.pid, 'SIGKILL');
      const status = peekPidfd(this.#pidfd);
      if (typeof status === 'string') throw new BerthError('internal', `exit status of process ${this.pid} is lost`);
      return status;
    } finally {
      this.#hasEnded = true;
      this.#reaper.take(this.#pidfd);
    }
  }
}

/** A descriptor of a child. When there is none to be had, the child is ended: nobody would follow what it does. */
function openChild(pid: number, hasGroup: boolean): number {
  try {
    const pidfd = pidfdOpen(pid);
    // Nobody else reaps our children, so its pid cannot be free yet.
    if (pidfd === undefined) throw new BerthError('internal', `process ${pid} was reaped by someone else`);
    return pidfd;
  } catch (err) {
    if (hasGroup) killGroup(pid, 'SIGKILL');
    else process.kill(pid, 'SIGKILL');
    reapKilled(pid);
    throw err;
  }
}

function killGroup(group: number, signal: SignalName): void {
  try {
    process.kill(-group, signal);
  } catch {
    // Every member has ended.
  }
}

/** The child's end of one of its streams, and ours where there is a pipe. */
interface Ends {
  readonly fd: number;
  readonly stream: Socket | undefined;
}

function stdinEnds(
  stdin: 'pipe' | 'ignore' | number,
  input: Uint8Array | undefined,
  handedOver: number[],
  streams: Socket[],
): Ends {
  const hasInput = input !== undefined && input.length > 0;
  if (stdin !== 'pipe' && !hasInput) return plainEnds(stdin, 'r', handedOver);
  const { readFd, writeFd } = createPipe();
  handedOver.push(readFd);
  if (hasInput && input.length <= PIPE_ROOM_BYTES) {
    // Spares a stream: it fits, and with the last writer gone the child reads to the end.
    handedOver.push(writeFd);
    writeSync(writeFd, input);
    return { fd: readFd, stream: undefined };
  }
  const stream = new Socket({ fd: writeFd, readable: false, writable: true });
  streams.push(stream);
  if (hasInput) {
    // A program may end without reading its input; its exit code tells what that means.
    stream.on('error', () => {});
    stream.end(input);
  }
  return { fd: readFd, stream };
}

function outputEnds(output: 'pipe' | 'ignore' | number, handedOver: number[], streams: Socket[]): Ends {
  if (output !== 'pipe') return plainEnds(output, 'w', handedOver);
  const { readFd, writeFd } = createPipe();
  handedOver.push(writeFd);
  const stream = new Socket({ fd: readFd, readable: true, writable: false });
  streams.push(stream);
  return { fd: writeFd, stream };
}

function plainEnds(fd: 'ignore' | number, flags: 'r' | 'w', handedOver: number[]): Ends {
  if (typeof fd === 'number') return { fd: copyOf(fd, handedOver), stream: undefined };
  const nothing = openSync('/dev/null', flags);
  handedOver.push(nothing);
  return { fd: nothing, stream: undefined };
}

/** Of a caller's descriptor, which may be closed, and its number be another file's, before the child has it. */
function copyOf(fd: number, handedOver: number[]): number {
  const copy = duplicateFd(fd, FIRST_FREE_FD);
  handedOver.push(copy);
  return copy;
}
