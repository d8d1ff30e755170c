import { basename } from 'node:path';
import type { Readable, Writable } from 'node:stream';

import { BerthError } from '../base/errors.ts';
import type { Errand } from '../base/meter.ts';
import type { ExitStatus } from '../sys/pidfd.ts';
import type { SignalName } from '../sys/signals.ts';

/** What every process needs. */
interface Program {
  /** A path, or a bare name that is looked up in the daemon's PATH. */
  readonly path: string;
  /** Without argv[0]. */
  readonly args: readonly string[];
  /** The whole environment; default: only PATH. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
  /** What it is run for, where that is measured apart. */
  readonly errand?: Errand | undefined;
  /**
   * A session and a process group of its own: signals go to its descendants too, it outlives this one's terminal, and has
   * a share of the processors of its own where the kernel shares them out among sessions (`setSessionNice`).
   */
  readonly newSession?: boolean | undefined;
  /** How far that session gives way to others; default 0. */
  readonly sessionNice?: number | undefined;
  /**
   * How long it may take to come to its own end when nobody waits for it any more: for one that leaves what nobody can
   * undo when it is killed in the middle. Default 0.
   */
  readonly letFinishMs?: number | undefined;
}

/** A process that runs to its end while its output is collected. */
export interface Command extends Program {
  /** Written to its standard input, which then ends; default: nothing. A program that does not read it is fine. */
  readonly stdin?: string | Uint8Array | undefined;
  readonly timeoutMs: number;
  /** Kept of each of stdout and stderr, the rest is read and dropped; default 1 MiB. */
  readonly outputLimitBytes?: number | undefined;
  /** Whether more than that on stdout ends it as a signal would: whoever prints so much does not stop by itself. */
  readonly endAtLimit?: boolean | undefined;
  /** From SIGTERM to SIGKILL when it has to be stopped; default 1000. */
  readonly killGraceMs?: number | undefined;
}

/** How a `Command` ended. */
export interface CommandResult extends ExitStatus {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Output was dropped for being over the limit. */
  readonly truncated: boolean;
  readonly durationMs: number;
}

/** A process whose streams the caller works with while it runs. */
export interface StartCommand extends Program {
  /** A pipe, /dev/null (default), or a descriptor, which stays the caller's. */
  readonly stdin?: 'pipe' | 'ignore' | number | undefined;
  readonly stdout?: 'pipe' | 'ignore' | number | undefined;
  readonly stderr?: 'pipe' | 'ignore' | number | undefined;
  /** The child's descriptors 3, 4, ...; they stay the caller's. */
  readonly extraFds?: readonly number[] | undefined;
}

/** A running child. It is reaped by itself, a moment after its end. */
export interface ChildProcess {
  readonly pid: number;
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  /** Settles when it has ended; its streams may still hold output. */
  readonly exited: Promise<ExitStatus>;
  /** Sends a signal, to its group where it has one; nothing when it has ended. */
  kill(signal: SignalName): void;
  /** SIGTERM, and SIGKILL after `graceMs`; then SIGKILL for what is left of its group. Resolves when it has ended. */
  terminate(graceMs: number): Promise<void>;
}

/** A command ended with another exit code than 0. */
export class ExitError extends BerthError {
  override readonly name = 'ExitError';
  readonly exitCode: number;
  /** All that was kept of it. */
  readonly stderr: string;

  constructor(path: string, result: CommandResult) {
    const how = result.signal ? `was ended by ${result.signal}` : `failed with exit code ${result.exitCode}`;
    const stderr = result.stderr.toString('utf8').trim();
    const text = stderr || result.stdout.toString('utf8').trim();
    super('internal', `${basename(path)} ${how}${text === '' ? '' : `: ${tail(text)}`}`);
    this.exitCode = result.exitCode;
    this.stderr = stderr;
  }
}

/** The end of a program's words: that is where it says why it gave up. */
function tail(text: string): string {
  const limit = 1000;
  const oneLine = text.replace(/\s*\n\s*/g, ', ');
  return oneLine.length <= limit ? oneLine : `...${oneLine.slice(-limit)}`;
}
