import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { BerthError, type ErrorKind } from './errors.ts';

/** The environment variable that names the folder of a test's faults. Where it is not set, nothing is disturbed. */
export const FAULTS_VARIABLE = 'BERTH_FAULTS';
/** Set for a process that does a part of another's work: that one is killed with it. */
const VICTIM_VARIABLE = 'BERTH_FAULTS_VICTIM';

/**
 * When a fault strikes: in place of the work, while it goes on, or when it is done and its answer is not given yet.
 * `instead` is for processes: another program runs.
 */
export type FaultPhase = 'before' | 'during' | 'after' | 'instead';

/** One disturbance, as a file of the folder holds it. */
export interface Fault {
  /** `RunPodSandbox/make cgroup` or `RunPodSandbox/undo make cgroup` for a step, `process runc`, `call mount`. */
  readonly place: string;
  readonly phase: FaultPhase;
  /** `hang` lasts until its file is taken away, or until the caller's signal aborts where there is one. */
  readonly action: 'error' | 'hang' | 'kill' | 'run';
  /** How often the place is passed unharmed before. */
  readonly skip: number;
  /** For `error`: an ErrorKind, or the symbolic errno of a system call. */
  readonly error: string;
  /** For `kill` during the work: how long after its beginning. */
  readonly delayMs: number;
  /** For `run`: what /bin/sh runs instead; `$@` is the program with its arguments. */
  readonly script: string;
}

const ARMED = '.armed';
const FIRED = '.fired';
const POLL_MS = 5;

/**
 * Places where tests disturb the work: it fails, it hangs, or this process is killed. All there is to know is in a
 * folder, so that threads and later lives of the process share it: `NAME.armed` is a Fault that waits, `NAME.fired` one
 * that has struck, and `passed` has a line for each place that was passed. A fault strikes once.
 */
export class FaultPoints {
  readonly folder: string;

  /** Throws `precondition` when the folder is not there. */
  constructor(folder: string) {
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
      throw new BerthError('precondition', `${FAULTS_VARIABLE}: ${folder} is no folder`);
    this.folder = folder;
  }

  /** Does the work of a place, disturbed if the test wants it. A hang ends early with the signal's reason. */
  async around<T>(place: string, work: () => Promise<T> | T, signal?: AbortSignal): Promise<T> {
    this.#notePassed(place);
    await this.#strike(place, 'before', signal);
    const during = this.#take(place, 'during');
    const timer = during && setTimeout(die, during.fault.delayMs);
    try {
      const result = await work();
      await this.#strike(place, 'after', signal);
      return result;
    } finally {
      clearTimeout(timer);
      // The work was over first.
      if (during) die();
    }
  }

  /** As `around` for work that blocks its thread, as a hang then does. `fail` gives the answer of an error. */
  aroundCall<T>(place: string, work: () => T, fail: (error: string) => T): T {
    this.#notePassed(place);
    const before = this.#strikeNow(place, 'before');
    if (before) return fail(before.error);
    const result = work();
    const after = this.#strikeNow(place, 'after');
    return after ? fail(after.error) : result;
  }

  /** The script that shall run in place of a program. */
  standIn(place: string): string | undefined {
    const taken = this.#take(place, 'instead');
    return taken?.fault.script.replaceAll('FAULT_FILE', taken.file);
  }

  async #strike(place: string, phase: FaultPhase, signal: AbortSignal | undefined): Promise<void> {
    const taken = this.#take(place, phase);
    if (!taken) return;
    const { fault, file } = taken;
    if (fault.action === 'kill') die();
    if (fault.action === 'error') throw faultError(place, fault.error);
    while (existsSync(file)) {
      signal?.throwIfAborted();
      await delay(POLL_MS);
    }
  }

  /** The fault whose error is to be given. */
  #strikeNow(place: string, phase: FaultPhase): Fault | undefined {
    const taken = this.#take(place, phase);
    if (!taken) return undefined;
    const { fault, file } = taken;
    if (fault.action === 'kill') die();
    if (fault.action === 'error') return fault;
    const never = new Int32Array(new SharedArrayBuffer(4));
    while (existsSync(file)) Atomics.wait(never, 0, 0, POLL_MS);
    return undefined;
  }

  /** Takes the fault that is due here. Renaming is how one of several threads gets it. */
  #take(place: string, phase: FaultPhase): { readonly fault: Fault; readonly file: string } | undefined {
    for (const name of this.#listArmed()) {
      const armed = join(this.folder, name);
      try {
        const fault = JSON.parse(readFileSync(armed, 'utf8')) as Fault;
        if (fault.place !== place || fault.phase !== phase) continue;
        if (fault.skip > 0) {
          rewrite(armed, { ...fault, skip: fault.skip - 1 });
          continue;
        }
        const file = armed.replace(ARMED, FIRED);
        renameSync(armed, file);
        return { fault, file };
      } catch {
        // Another thread has taken it, or the test has taken it away.
      }
    }
    return undefined;
  }

  #listArmed(): string[] {
    try {
      return readdirSync(this.folder).filter((name) => name.endsWith(ARMED));
    } catch {
      // A thread that has no files at all for a while: it makes the mount namespace in which pause processes live.
      return [];
    }
  }

  #notePassed(place: string): void {
    try {
      appendFileSync(join(this.folder, 'passed'), `${place}\n`);
    } catch {
      // As above, or the test is over.
    }
  }
}

/** The fault points of this process, where its environment names a folder. Throws `precondition` for none. */
export function openFaultPoints(environment: Readonly<Record<string, string | undefined>>): FaultPoints | undefined {
  const folder = environment[FAULTS_VARIABLE];
  return folder === undefined || folder === '' ? undefined : new FaultPoints(folder);
}

/** Work that has a place where tests may disturb it. */
export async function atPlace<T>(
  faults: FaultPoints | undefined,
  place: string,
  work: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  return await (faults ? faults.around(place, work, signal) : work());
}

/** The error of a fault. */
export function faultError(place: string, kind: string): BerthError {
  return new BerthError(kind as ErrorKind, `fault at ${place}`);
}

function rewrite(file: string, fault: Fault): void {
  const next = `${file}.next`;
  writeFileSync(next, JSON.stringify(fault));
  if (existsSync(file)) renameSync(next, file);
  else unlinkSync(next);
}

/** What a process that does a part of this one's work needs, so that faults strike there too; nothing without faults. */
export function faultsForChild(environment: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  const folder = environment[FAULTS_VARIABLE];
  return folder === undefined ? {} : { [FAULTS_VARIABLE]: folder, [VICTIM_VARIABLE]: String(process.pid) };
}

// Nothing of this process runs any more when the call returns.
function die(): void {
  const victim = process.env[VICTIM_VARIABLE];
  if (victim !== undefined) process.kill(Number(victim), 'SIGKILL');
  process.kill(process.pid, 'SIGKILL');
}
