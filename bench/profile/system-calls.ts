import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

/** What one program did while it was watched. */
export interface ProgramCalls {
  readonly program: string;
  /** How often it was executed. */
  readonly executed: number;
  /** System calls by name. */
  readonly calls: Readonly<Record<string, number>>;
}

/** A watch on a process, its threads and all that they start. */
export interface Watch {
  /** Ends it; what was watched goes on. */
  stop(): Promise<void>;
}

/** Begins to write the system calls of a process, its threads and its descendants to `file`, by strace(1). */
export async function watchSystemCalls(pid: number, file: string): Promise<Watch> {
  const strace = spawn('strace', ['-f', '-qq', '-s', '0', '-o', file, '-p', String(pid)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = once(strace, 'exit');
  // It says nothing when all is well, but then its process is the tracer.
  while (!isTraced(pid)) {
    if (strace.exitCode !== null) throw new Error(`strace ended with ${strace.exitCode}`);
    await setTimeout(20);
  }
  return {
    async stop() {
      strace.kill('SIGINT');
      await exited;
    },
  };
}

/** Counts what strace wrote, program by program. `names` are those of the processes that were there before. */
export async function readSystemCalls(file: string, names: ReadonlyMap<number, string>): Promise<ProgramCalls[]> {
  const trace = new Trace(names);
  for await (const line of createInterface({ input: createReadStream(file, 'latin1') })) trace.take(line);
  return trace.programs();
}

/** The threads of a process, all under the name of its program. */
export function threadsOf(pid: number, program: string): Map<number, string> {
  return new Map(readdirSync(`/proc/${pid}/task`).map((thread) => [Number(thread), program]));
}

/** What the lines of strace's output say. */
export class Trace {
  readonly #programOf: Map<number, string>;
  readonly #executed = new Map<string, number>();
  readonly #calls = new Map<string, Map<string, number>>();
  readonly #early = new Map<number, string[]>();
  readonly #paths = new Map<number, string>();

  constructor(names: ReadonlyMap<number, string>) {
    this.#programOf = new Map(names);
  }

  /** `PID CALL(ARGUMENTS) = RESULT`, or one of the two halves of a call that others came in between. */
  take(line: string): void {
    const [, pidText = '', rest = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
    const pid = Number(pidText);
    if (!this.#programOf.has(pid)) {
      // It was faster than the call that made it.
      this.#early.set(pid, [...(this.#early.get(pid) ?? []), line]);
      return;
    }
    const [, resumed] = /^<\.\.\. (\w+) resumed>/.exec(rest) ?? [];
    const [, begun] = /^(\w+)\(/.exec(rest) ?? [];
    const name = resumed ?? begun;
    if (name === undefined) return;
    const program = this.#programOf.get(pid) ?? 'unknown';
    // Counted where it begins, in the program that makes it.
    if (begun !== undefined) this.#count(program, begun);
    const [, result] = / = (-?\d+)/.exec(rest.slice(rest.lastIndexOf(')'))) ?? [];
    if (/^(clone3?|v?fork)$/.test(name) && Number(result) > 0) this.#learn(Number(result), program);
    if (begun === 'execve') this.#paths.set(pid, /^execve\("([^"]*)"/.exec(rest)?.[1] ?? '');
    // By a descriptor it starts its own copy.
    if (begun === 'execveat') this.#paths.set(pid, '/proc/self/exe');
    if (/^execve(at)?$/.test(name) && result === '0') this.#execute(pid);
  }

  /** All programs, those first that made the most calls. */
  programs(): ProgramCalls[] {
    const all = [...new Set([...this.#calls.keys(), ...this.#executed.keys()])].map((program) => ({
      program,
      executed: this.#executed.get(program) ?? 0,
      calls: Object.fromEntries(this.#calls.get(program) ?? []),
    }));
    return all.sort((one, other) => sum(other.calls) - sum(one.calls));
  }

  #learn(pid: number, program: string): void {
    this.#programOf.set(pid, program);
    const early = this.#early.get(pid) ?? [];
    this.#early.delete(pid);
    for (const line of early) this.take(line);
  }

  #execute(pid: number): void {
    const path = this.#paths.get(pid) ?? '';
    // A runtime starts itself anew under the name of its own file.
    const program = path === '/proc/self/exe' ? (this.#programOf.get(pid) ?? 'unknown') : basename(path);
    this.#programOf.set(pid, program);
    this.#executed.set(program, (this.#executed.get(program) ?? 0) + 1);
  }

  #count(program: string, call: string): void {
    const calls = this.#calls.get(program) ?? new Map<string, number>();
    this.#calls.set(program, calls.set(call, (calls.get(call) ?? 0) + 1));
  }
}

/** How many calls there are of all names. */
export function sum(calls: Readonly<Record<string, number>>): number {
  return Object.values(calls).reduce((total, count) => total + count, 0);
}

function isTraced(pid: number): boolean {
  const tracers = readdirSync(`/proc/${pid}/task`).map((thread) =>
    Number(/^TracerPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'))?.[1]),
  );
  return tracers.every((tracer) => tracer > 0);
}
