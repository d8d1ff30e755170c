import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import { Output } from '../proc/output.ts';
import type { Processes } from '../proc/processes.ts';
import { closeFd } from '../sys/at.ts';
import { openProcess } from '../sys/process.ts';
import { type CompiledFilter, filterFlags } from './exec-join.ts';
import { ExecPipes } from './exec-pipes.ts';
import type { Handler } from './handler.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { identityOf } from './sealed-programs.ts';

/** BPF_MAXINSNS of them, `struct sock_filter` of linux/filter.h. */
const MOST_INSTRUCTIONS = 4096;
const INSTRUCTION_BYTES = 8;
const FILE_NAME = /^[0-9a-f]{64}$/;
const DRAFT = '.new';
/** What native/filter-reader.c writes before the filter, and ends with where its process has ended. */
const TRACED = '+'.charCodeAt(0);
const HAS_ENDED = 1;
/** A container's start waits so long at most for the process to be traced. */
const TRACED_MS = 2_000;
const READ_MS = 15_000;
const KILL_GRACE_MS = 100;
/** Each has some KB of the state folder's memory: profiles, in as many forms as they have for sets of capabilities. */
const MOST_FILTERS = 128;
/** Where the loader of programs finds libseccomp (ld.so(8)), also Debian's. */
const LIBRARIES: readonly string[] = Object.freeze(
  ['/usr/local/lib', '/usr/lib64', '/usr/lib', '/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu'].map(
    (folder) => join(folder, 'libseccomp.so.2'),
  ),
);

/** What a filter is to be made of, and by whom. */
interface Wanted {
  readonly key: string;
  readonly seccomp: OciSeccomp;
  readonly handler: Pick<Handler, 'path'>;
}

/**
 * Seccomp filters as the runtime has compiled them, kept by what they were compiled from. To compile the one of
 * RuntimeDefault takes runc 10 ms of a processor, and `runc exec` does it for each command; the result is the same each
 * time. So the first container with a profile is watched as it executes its program (native/filter-reader.c), and what the
 * kernel has for it then is what commands in all containers with that profile load (native/exec-join.c). The files outlive
 * berthd; a filter is never made by Berth.
 */
export class SeccompFilters {
  readonly #folder: string;
  readonly #readerPath: string;
  readonly #processes: Pick<Processes, 'start'>;
  readonly #log: Logger;
  readonly #known: Set<string>;
  /** Containers from whose start a filter can be learned. */
  readonly #wanted = new Map<string, Wanted>();
  readonly #reading = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();
  #isPossible = true;

  /** Keeps the filters in `<state>/seccomp`. */
  constructor(deps: {
    readonly stateDir: string;
    /** The program of native/filter-reader.c. */
    readonly filterReaderPath: string;
    readonly processes: Pick<Processes, 'start'>;
    readonly log: Logger;
  }) {
    this.#folder = join(deps.stateDir, 'seccomp');
    this.#readerPath = deps.filterReaderPath;
    this.#processes = deps.processes;
    this.#log = deps.log;
    const names = existsSync(this.#folder) ? readdirSync(this.#folder) : [];
    this.#known = new Set(names.filter((name) => FILE_NAME.test(name)));
    // What a daemon had begun to write that was killed.
    for (const name of names) if (name.endsWith(DRAFT)) rmSync(join(this.#folder, name), { force: true });
  }

  /** The filter that a runtime has made of this section; undefined while it is not known, or cannot be. */
  find(seccomp: OciSeccomp, handler: Pick<Handler, 'path'>): CompiledFilter | undefined {
    const flags = filterFlags(seccomp);
    const key = keyOf(seccomp, handler);
    if (flags === undefined || !this.#known.has(key)) return undefined;
    const file = join(this.#folder, key);
    if (existsSync(file)) return { file, flags };
    // Somebody has tidied up.
    this.#known.delete(key);
    return undefined;
  }

  /** Notes that a container is created with this section, whose first process watch() may learn the filter from. */
  expect(containerId: string, seccomp: OciSeccomp, handler: Pick<Handler, 'path'>): void {
    if (!this.#isPossible) return;
    const key = keyOf(seccomp, handler);
    if (!this.#known.has(key)) this.#wanted.set(containerId, { key, seccomp, handler });
  }

  forget(containerId: string): void {
    this.#wanted.delete(containerId);
  }

  /**
   * Call it right before the first process of a container is let go that has not executed its program: returns when it is
   * watched, where there is something to learn. Never throws: without the filter all goes on as before.
   */
  async watch(containerId: string, init: ProcessIdentity): Promise<void> {
    const wanted = this.#wanted.get(containerId);
    this.#wanted.delete(containerId);
    if (!wanted || this.#known.has(wanted.key) || this.#reading.has(wanted.key)) return;
    const traced = Promise.withResolvers<void>();
    const { key } = wanted;
    const work = this.#read(wanted, init, traced.resolve)
      .catch((err: unknown) => this.#log.debug({ container: containerId, err: describe(err) }, 'no filter was read'))
      .finally(() => {
        this.#reading.delete(key);
        traced.resolve();
      });
    this.#reading.set(key, work);
    using limited = withDeadline(`tracing of process ${init.pid}`, TRACED_MS);
    await raceSignal(traced.promise, limited).catch(() => {});
  }

  /** Resolves when nothing is being read. */
  async idle(): Promise<void> {
    await Promise.all(this.#reading.values());
  }

  /** Gives up what is being read. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    await this.idle();
  }

  async #read(wanted: Wanted, init: ProcessIdentity, onTraced: () => void): Promise<void> {
    using pipes = new ExecPipes();
    const [stdoutFd, stdout] = pipes.output();
    const output = new Output(stdout, MOST_INSTRUCTIONS * INSTRUCTION_BYTES + 2);
    stdout.once('data', onTraced);
    const reader = await this.#startReader(init, stdoutFd);
    pipes.closeTheirs();
    using limited = withDeadline('reading a seccomp filter', READ_MS, this.#closing.signal);
    try {
      const { exitCode } = await raceSignal(reader.exited, limited);
      await raceSignal(output.ended, limited);
      if (exitCode === 0) this.#keep(wanted, output.bytes());
      else if (exitCode !== HAS_ENDED) this.#giveUp(exitCode);
    } finally {
      await reader.terminate(KILL_GRACE_MS);
    }
  }

  async #startReader({ pid, startTime }: ProcessIdentity, stdout: number): Promise<ChildProcess> {
    const pidfd = openProcess(pid, startTime);
    if (pidfd === undefined) throw new BerthError('notFound', `process ${pid} has ended`);
    try {
      return await this.#processes.start({ path: this.#readerPath, args: [String(pid)], stdout, extraFds: [pidfd] });
    } finally {
      closeFd(pidfd);
    }
  }

  #keep({ key, seccomp, handler }: Wanted, output: Buffer): void {
    const filter = output.subarray(1);
    const length = filter.length / INSTRUCTION_BYTES;
    if (output[0] !== TRACED || !Number.isInteger(length) || length < 1 || length > MOST_INSTRUCTIONS)
      throw new BerthError('internal', `${this.#readerPath}: no filter in ${output.length} bytes`);
    // An upgrade has come in between, and which of the two has made it is not known.
    if (keyOf(seccomp, handler) !== key) return;
    const file = join(this.#folder, key);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeFileSync(`${file}${DRAFT}`, filter, { mode: 0o600 });
    renameSync(`${file}${DRAFT}`, file);
    this.#known.add(key);
    const [oldest] = this.#known;
    if (this.#known.size <= MOST_FILTERS || oldest === undefined) return;
    this.#known.delete(oldest);
    rmSync(join(this.#folder, oldest), { force: true });
  }

  #giveUp(exitCode: number): void {
    if (!this.#isPossible) return;
    this.#isPossible = false;
    this.#log.info(
      { program: this.#readerPath, exitCode },
      'seccomp filters cannot be read here; commands in containers that have one are started by the OCI runtime, and take longer',
    );
  }
}

/**
 * What a filter depends on: the section, the runtime that compiles it, libseccomp, whose newer releases know calls by name
 * that older ones leave out, where the runtime loads it, and the kernel.
 */
function keyOf(seccomp: OciSeccomp, { path }: Pick<Handler, 'path'>): string {
  const compilers = [path, ...LIBRARIES].map(identityOf);
  return createHash('sha256')
    .update(JSON.stringify([path, compilers, release(), seccomp]))
    .digest('hex');
}
