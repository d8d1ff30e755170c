/** Commands for the virtual machine, over the port on which test/vm/guest/control.sh listens. */

import { randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';

/** What a command did. */
export interface Answer {
  /** Its exit code; 124 or 137 when it took longer than it may. */
  readonly status: number;
  /** All that it wrote, to stdout and to stderr. */
  readonly output: Buffer;
}

/** How a command runs. */
export interface CommandOptions {
  /** The machine ends it after that time by its own clock, which is slower than the host's. */
  readonly timeoutMs: number;
  /** Its standard input; nothing if not said. */
  readonly input?: Buffer;
  /** Hears what it writes while it writes it. */
  readonly onOutput?: (bytes: Buffer) => void;
}

/** A second of a machine that is emulated takes that many of an idle host; a busy one takes more. */
const HOST_FACTOR = 15;
/** After its own time is over a command gets that much more to be killed, and its answer to arrive. */
const GRACE_MS = 60_000;
/** The longest end of an answer: a line break, an id, a space, three digits, a line break. */
const LONGEST_STATUS = ' 255\n'.length;

/** The bytes that ask for a command. */
export function requestBytes(
  id: string,
  command: string,
  { timeoutMs, input = Buffer.alloc(0) }: CommandOptions,
): Buffer {
  const text = Buffer.from(command);
  const head = `${id} ${Math.ceil(timeoutMs / 1000)} ${text.length} ${input.length}\n`;
  return Buffer.concat([Buffer.from(head), text, input]);
}

/** Takes an answer apart as it comes. What a command writes may hold anything but the id, which nobody can guess. */
export class AnswerReader {
  readonly #mark: Buffer;
  readonly #onOutput: (bytes: Buffer) => void;
  #kept: Buffer = Buffer.alloc(0);

  constructor(id: string, onOutput: (bytes: Buffer) => void) {
    this.#mark = Buffer.from(`\n${id} `);
    this.#onOutput = onOutput;
  }

  /** Takes what came; the exit code once the answer is whole. */
  push(bytes: Buffer): number | undefined {
    const all = Buffer.concat([this.#kept, bytes]);
    const at = all.indexOf(this.#mark);
    if (at < 0) {
      const certain = Math.max(0, all.length - this.#mark.length + 1);
      this.#pass(all.subarray(0, certain));
      this.#kept = all.subarray(certain);
      return undefined;
    }
    this.#pass(all.subarray(0, at));
    this.#kept = all.subarray(at);
    const rest = this.#kept.subarray(this.#mark.length, this.#mark.length + LONGEST_STATUS).toString('latin1');
    const status = /^(\d{1,3})\n/.exec(rest)?.[1];
    return status === undefined ? undefined : Number(status);
  }

  #pass(bytes: Buffer): void {
    if (bytes.length > 0) this.#onOutput(bytes);
  }
}

/** The last boot that a text of the port tells of; undefined when it tells of none. */
export function bootIn(text: string): string | undefined {
  return [...text.matchAll(/^ready ([0-9a-f-]{36})$/gm)].at(-1)?.[1];
}

/** A connection to the port. One command at a time; another host that connects waits until this one leaves. */
export class Control implements Disposable {
  readonly #socket: Socket;
  #reader: ((bytes: Buffer) => void) | undefined;
  #idleText = '';
  #onReady: ((boot: string) => void) | undefined;
  #failure: Error | undefined;
  #onFailure: ((problem: Error) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => this.#take(bytes));
    socket.on('error', (err) => this.#fail(err));
    socket.on('close', () => this.#fail(new Error('the virtual machine has gone')));
  }

  /** Connects to the socket that qemu made. */
  static async connect(path: string): Promise<Control> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const socket = connect(path);
    socket.once('connect', () => resolve()).once('error', reject);
    await promise;
    return new Control(socket);
  }

  /** Waits until a machine that was not up before takes commands. Throws when it does not within that time. */
  async ready(previousBoot: string | undefined, timeoutMs: number): Promise<string> {
    return await this.#within(timeoutMs, 'the virtual machine is not up', (resolve) => {
      this.#onReady = (boot) => {
        if (boot !== previousBoot) resolve(boot);
      };
      this.#lookForBoot();
    });
  }

  /** Runs a command of the machine's shell. A command that fails is an answer; throws when there is none. */
  async run(command: string, options: CommandOptions): Promise<Answer> {
    const id = randomUUID();
    const output: Buffer[] = [];
    const reader = new AnswerReader(id, (bytes) => {
      output.push(bytes);
      options.onOutput?.(bytes);
    });
    const shown = command.trim().split('\n')[0] ?? '';
    const status = await this.#within<number>(
      (options.timeoutMs + GRACE_MS) * HOST_FACTOR,
      `no answer to: ${shown}`,
      (resolve) => {
        this.#reader = (bytes) => {
          const ended = reader.push(bytes);
          if (ended !== undefined) resolve(ended);
        };
        this.#socket.write(requestBytes(id, command, options));
      },
    );
    return { status, output: Buffer.concat(output) };
  }

  /** Sends a command whose answer nobody waits for: the machine goes down by it. */
  send(command: string): void {
    this.#socket.write(requestBytes(randomUUID(), command, { timeoutMs: GRACE_MS }));
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #take(bytes: Buffer): void {
    if (this.#reader) {
      this.#reader(bytes);
      return;
    }
    this.#idleText = (this.#idleText + bytes.toString('latin1')).slice(-4096);
    this.#lookForBoot();
  }

  #lookForBoot(): void {
    const boot = bootIn(this.#idleText);
    if (boot !== undefined) this.#onReady?.(boot);
  }

  #fail(problem: Error): void {
    this.#failure ??= problem;
    this.#onFailure?.(this.#failure);
  }

  async #within<T>(timeoutMs: number, problem: string, begin: (resolve: (value: T) => void) => void): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(() => reject(new Error(`${problem} within ${Math.round(timeoutMs / 1000)} s`)), timeoutMs);
    this.#onFailure = reject;
    try {
      if (this.#failure) throw this.#failure;
      begin(resolve);
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#reader = undefined;
      this.#onReady = undefined;
      this.#onFailure = undefined;
    }
  }
}
