import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

import { BerthError, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import { isSameProcess } from '../sys/process.ts';
import { type CompiledFilter, filterFlags } from './exec-join.ts';
import type { Handler } from './handler.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import type { OciSpec } from './oci-spec.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { identityOf } from './sealed-programs.ts';

/** BPF_MAXINSNS of them, `struct sock_filter` of linux/filter.h. */
const MOST_INSTRUCTIONS = 4096;
const INSTRUCTION_BYTES = 8;
const FILE_NAME = /^[0-9a-f]{64}$/;
const DRAFT = '.new';
/** It takes a millisecond or two; a container's creation waits for it. */
const READ_MS = 2_000;
/** So many that failed one after the other are no accident. */
const MOST_FAILURES = 5;
/** Each has some KB of the state folder's memory: profiles, in as many forms as they have for sets of capabilities. */
const MOST_FILTERS = 128;
/** Where the loader of programs finds libseccomp as a rule (ld.so(8)), also Debian's. */
const LIBRARIES: readonly string[] = Object.freeze(
  [
    '/usr/local/lib',
    '/usr/local/lib64',
    '/usr/lib64',
    '/usr/lib',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
  ].map((folder) => join(folder, 'libseccomp.so.2')),
);

/** A filter that is not known, as it is to be compiled. */
export interface MissingFilter {
  readonly key: string;
  readonly seccomp: OciSeccomp;
  readonly handler: Pick<Handler, 'path'>;
}

/**
 * Seccomp filters as the runtime has compiled them, kept by what they were compiled from. To compile the one of
 * RuntimeDefault takes runc 10 ms of a processor and more, and `runc exec` does it for each command; the result is as good
 * each time. From 1.1 on runc has loaded it when a container is created, before it waits for the start: what the kernel has
 * then for the first container with a profile (native/filter-reader.c) is what commands in all containers with that profile
 * load (native/exec-join.c). The files outlive berthd; a filter is never made by Berth.
 */
export class SeccompFilters {
  readonly #folder: string;
  readonly #readerPath: string;
  readonly #processes: Pick<Processes, 'run'>;
  readonly #log: Logger;
  /** The oldest first. */
  readonly #known: Set<string>;
  readonly #reading = new Set<string>();
  #failures = 0;

  /** Keeps the filters in `<state>/seccomp`. */
  constructor(deps: {
    readonly stateDir: string;
    /** The program of native/filter-reader.c. */
    readonly filterReaderPath: string;
    readonly processes: Pick<Processes, 'run'>;
    readonly log: Logger;
  }) {
    this.#folder = join(deps.stateDir, 'seccomp');
    this.#readerPath = deps.filterReaderPath;
    this.#processes = deps.processes;
    this.#log = deps.log;
    this.#known = new Set(this.#findFilters());
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

  /**
   * What there is to learn() from a container that is about to be created. Nothing from one that shares its processes: who
   * may trace others in there could have changed what its runtime does.
   */
  missing({ linux }: OciSpec, handler: Pick<Handler, 'path'>): MissingFilter | undefined {
    const { seccomp, namespaces } = linux;
    const isAlone = namespaces.some(({ type, path }) => type === 'pid' && path === undefined);
    if (!seccomp || !isAlone || this.#failures >= MOST_FAILURES) return undefined;
    const key = keyOf(seccomp, handler);
    return this.#known.has(key) ? undefined : { key, seccomp, handler };
  }

  /**
   * Reads a filter from the first process of a container that was created and not started. Never throws: without the
   * filter all goes on as before.
   */
  async learn({ key, seccomp, handler }: MissingFilter, init: ProcessIdentity, signal: AbortSignal): Promise<void> {
    if (this.#known.has(key) || this.#reading.has(key)) return;
    this.#reading.add(key);
    try {
      const filter = await this.#read(init, signal);
      // Or an upgrade has come in between, and which of the two has made it is not known.
      if (keyOf(seccomp, handler) === key) this.#keep(key, filter);
      this.#failures = 0;
    } catch (err) {
      if (!signal.aborted) this.#noteFailure(err);
    } finally {
      this.#reading.delete(key);
    }
  }

  async #read({ pid, startTime }: ProcessIdentity, signal: AbortSignal): Promise<Buffer> {
    const command = { path: this.#readerPath, args: [String(pid)], timeoutMs: READ_MS };
    const { stdout: filter, exitCode } = await this.#processes.run(command, signal);
    if (!isSameProcess(pid, startTime)) throw new BerthError('notFound', `process ${pid} has ended`);
    const length = filter.length / INSTRUCTION_BYTES;
    if (exitCode !== 0 || !Number.isInteger(length) || length < 1 || length > MOST_INSTRUCTIONS)
      throw new BerthError('internal', `${this.#readerPath} ended with ${exitCode} after ${filter.length} bytes`);
    return filter;
  }

  #keep(key: string, filter: Buffer): void {
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

  #noteFailure(err: unknown): void {
    this.#failures += 1;
    if (this.#failures !== MOST_FAILURES) return;
    this.#log.info(
      { err: describe(err) },
      'seccomp filters cannot be read here; commands in containers that have one are started by the OCI runtime, and take longer',
    );
  }

  #findFilters(): string[] {
    const names = existsSync(this.#folder) ? readdirSync(this.#folder) : [];
    // What a daemon had begun to write that was killed.
    for (const name of names) if (name.endsWith(DRAFT)) rmSync(join(this.#folder, name), { force: true });
    const ageOf = (name: string): number => statSync(join(this.#folder, name)).mtimeMs;
    return names.filter((name) => FILE_NAME.test(name)).sort((a, b) => ageOf(a) - ageOf(b));
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
