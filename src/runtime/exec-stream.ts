import { randomBytes } from 'node:crypto';
import { join } from 'node:path';

import { raceSignal } from '../base/deadline.ts';
import { addCarriageReturns, setWindowSize } from '../sys/fd-calls.ts';
import { FdStream } from '../sys/fd-stream.ts';
import { DescriptorSocket } from '../sys/unix-socket.ts';
import { EXEC_FILE_PREFIX } from './bundle.ts';
import type { ClientStreams, WindowSize } from './client-streams.ts';
import { ExecPipes, LAST_OUTPUT_BYTES } from './exec-pipes.ts';
import { type ExecDeps, ExecProcess, type ExecRequest, execProcess } from './exec-process.ts';
import { forwardInput, forwardOutput } from './forward.ts';
import { onWindowSize } from './window-size.ts';

/** What ends a streamed command early. */
export interface StreamSignals {
  /** The client has left: nobody takes the output any more. */
  readonly client: AbortSignal;
  /** The container has ended; the client still gets what was written until then. */
  readonly stopped: AbortSignal;
}

/** Runs a command whose streams are the client's, three pipes in between. Execs.stream() tells what it promises. */
export async function streamPipes(
  deps: ExecDeps,
  request: ExecRequest,
  client: ClientStreams,
  { client: left, stopped }: StreamSignals,
): Promise<number> {
  const signal = AbortSignal.any([left, stopped]);
  signal.throwIfAborted();
  const target = { ...request, process: execProcess(request.process, request.args, false) };
  using pipes = new ExecPipes();
  const [stdin, toStdin] = client.stdin ? pipes.input() : (['ignore'] as const);
  const [stdout, fromStdout] = client.stdout ? pipes.output() : (['ignore'] as const);
  const [stderr, fromStderr] = client.stderr ? pipes.output() : (['ignore'] as const);
  const exec = await ExecProcess.start(deps, target, { stdin, stdout, stderr }, signal);
  pipes.closeTheirs();
  try {
    await exec.started(signal);
    const outputs = [forwardOutput(fromStdout, client.stdout), forwardOutput(fromStderr, client.stderr)];
    forwardInput(client.stdin, toStdin);
    const exitCode = exec.ended(signal);
    await exitCode.catch(() => {});
    fromStdout?.endWhenEmpty(LAST_OUTPUT_BYTES);
    fromStderr?.endWhenEmpty(LAST_OUTPUT_BYTES);
    await raceSignal(Promise.all(outputs), left);
    return await exitCode;
  } finally {
    exec.close();
  }
}

/**
 * Runs a command on a terminal of its own, whose master the runtime hands over. The end of the client's input ends
 * nothing: a terminal has no half-close.
 */
export async function streamTerminal(
  deps: ExecDeps,
  request: ExecRequest,
  client: ClientStreams,
  { client: left, stopped }: StreamSignals,
): Promise<number> {
  const signal = AbortSignal.any([left, stopped]);
  signal.throwIfAborted();
  const window = new Window(client);
  const process = { ...execProcess(request.process, request.args, true), ...window.consoleSize() };
  // The runtime runs in the bundle's folder, so that a long path does no harm.
  const name = `${EXEC_FILE_PREFIX}${randomBytes(8).toString('hex')}.tty`;
  using socket = new DescriptorSocket(join(request.bundle.folder, name));
  const exec = await ExecProcess.start(deps, { ...request, process }, { ...noFds, consoleSocket: name }, signal);
  const notStarted = new AbortController();
  const opening = openTerminal(socket, window, AbortSignal.any([signal, notStarted.signal]));
  // Who is interested in its failure waits for it below.
  opening.catch(() => {});
  try {
    await exec.started(signal);
    const terminal = await opening;
    const output = forwardOutput(terminal, client.stdout);
    if (!client.stdout) terminal.resume();
    forwardInput(client.stdin, terminal);
    const exitCode = exec.ended(signal);
    await exitCode.catch(() => {});
    terminal.endWhenEmpty(LAST_OUTPUT_BYTES);
    await raceSignal(output, left);
    return await exitCode;
  } finally {
    notStarted.abort();
    exec.close();
    // Waited for, because the socket may only be closed when nobody watches it any more.
    await opening.then((terminal) => terminal.destroy()).catch(() => {});
  }
}

const noFds = { stdin: 'ignore', stdout: 'ignore', stderr: 'ignore' } as const;

async function openTerminal(socket: DescriptorSocket, window: Window, signal: AbortSignal): Promise<FdStream> {
  const fd = await socket.receive(signal);
  const terminal = new FdStream(fd, { readable: true, writable: true, hangUp: 'passes' });
  // conmon does the same, and clients rely on it.
  addCarriageReturns(fd);
  window.follow(terminal, fd);
  return terminal;
}

/** The size of a client's window, before and after there is a terminal. */
class Window {
  #size: WindowSize | undefined;
  #apply: (size: WindowSize) => void = () => {};

  constructor(client: ClientStreams) {
    onWindowSize(client, (size) => {
      this.#size = size;
      this.#apply(size);
    });
  }

  /** For the process section: what is known by now. */
  consoleSize(): { consoleSize?: WindowSize } {
    return this.#size ? { consoleSize: this.#size } : {};
  }

  follow(terminal: FdStream, fd: number): void {
    this.#apply = (size) => {
      if (!terminal.destroyed) setWindowSize(fd, size);
    };
    if (this.#size) this.#apply(this.#size);
  }
}
