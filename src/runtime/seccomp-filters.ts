import { hash } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { release, version } from 'node:os';
import { join } from 'node:path';

import { BerthError, describe, kindOf } from '../base/errors.ts';
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
/** What the filter was compiled from, and its own SHA-256: a power cut may leave less of it. */
const FILE_NAME = /^([0-9a-f]{64})-([0-9a-f]{64})$/;
const DRAFT = '.new';
/** It takes a millisecond or two; a container's creation waits for it, ten seconds more where the reader's disk hangs. */
const READ_MS = 2_000;
/** So many that failed one after the other are no accident. */
const MOST_FAILURES = 5;
/** What failed may have been the moment's fault. */
const RETRY_MS = 600_000;
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
  /** Whether what compiles it is what it was. */
  readonly isStill: () => boolean;
}

interface KnownFilter {
  readonly file: string;
  /** Of the file: one that was changed is none any more. */
  readonly identity: string;
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
  /** By what they were compiled from; the one that was not used for longest comes first. */
  readonly #known = new Map<string, KnownFilter>();
  readonly #reading = new Set<string>();
  #failures = 0;
  #retryAtMs = 0;

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
    try {
      this.#load();
    } catch (err) {
      this.#log.warn({ folder: this.#folder, err: describe(err) }, 'seccomp filters that were kept cannot be read');
    }
  }

  /** The filter that a runtime has made of this section; undefined while it is not known, or cannot be. Never throws. */
  find(seccomp: OciSeccomp, handler: Pick<Handler, 'path'>): CompiledFilter | undefined {
    const flags = filterFlags(seccomp);
    const key = keyOf(seccomp, handler);
    const known = key === undefined ? undefined : this.#known.get(key);
    if (key === undefined || !known || flags === undefined) return undefined;
    this.#known.delete(key);
    // Somebody has tidied up, or worse; the next container brings it again.
    if (identityIn(known.file) !== known.identity) {
      removeQuietly(known.file);
      return undefined;
    }
    this.#known.set(key, known);
    return { file: known.file, flags };
  }

  /**
   * What there is to learn() from a container that is about to be created. Nothing from one that shares its processes: who
   * may trace others in there could have changed what its runtime does. Never throws.
   */
  missing({ linux }: OciSpec, handler: Pick<Handler, 'path'>): MissingFilter | undefined {
    const { seccomp, namespaces } = linux;
    const isAlone = namespaces.some(({ type, path }) => type === 'pid' && path === undefined);
    if (!seccomp || !isAlone || performance.now() < this.#retryAtMs) return undefined;
    const key = keyOf(seccomp, handler);
    if (key === undefined || this.#known.has(key)) return undefined;
    return { key, isStill: () => keyOf(seccomp, handler) === key };
  }

  /**
   * Reads a filter from the first process of a container that was created and not started. Never throws: without the
   * filter all goes on as before.
   */
  async learn({ key, isStill }: MissingFilter, init: ProcessIdentity, signal: AbortSignal): Promise<void> {
    if (this.#known.has(key) || this.#reading.has(key)) return;
    this.#reading.add(key);
    try {
      const filter = await this.#read(init, signal);
      // Or an upgrade has come in between, and which of the two has made it is not known.
      if (filter && isStill()) this.#keep(key, filter);
    } catch (err) {
      this.#log.debug({ pid: init.pid, err: describe(err) }, 'a seccomp filter was not learned');
      if (!signal.aborted && kindOf(err) === 'deadline') this.#noteFailure('no exit in time');
    } finally {
      this.#reading.delete(key);
    }
  }

  /** Undefined where the process has none to give out. */
  async #read({ pid, startTime }: ProcessIdentity, signal: AbortSignal): Promise<Buffer | undefined> {
    const command = { path: this.#readerPath, args: [String(pid)], timeoutMs: READ_MS };
    const { stdout: filter, exitCode } = await this.#processes.run(command, signal);
    if (!isSameProcess(pid, startTime)) throw new BerthError('notFound', `process ${pid} has ended`);
    const length = filter.length / INSTRUCTION_BYTES;
    if (exitCode === 0 && Number.isInteger(length) && length >= 1 && length <= MOST_INSTRUCTIONS) {
      this.#failures = 0;
      return filter;
    }
    this.#noteFailure(`exit code ${exitCode}`);
    return undefined;
  }

  #keep(key: string, filter: Buffer): void {
    const file = join(this.#folder, `${key}-${hash('sha256', filter)}`);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    try {
      writeFileSync(`${file}${DRAFT}`, filter, { mode: 0o600 });
      renameSync(`${file}${DRAFT}`, file);
    } catch (err) {
      rmSync(`${file}${DRAFT}`, { force: true });
      throw err;
    }
    this.#known.set(key, { file, identity: identityIn(file) });
    const [first] = this.#known;
    if (this.#known.size <= MOST_FILTERS || first === undefined) return;
    const [leastUsed, known] = first;
    this.#known.delete(leastUsed);
    rmSync(known.file, { force: true });
  }

  #noteFailure(how: string): void {
    this.#failures += 1;
    if (this.#failures < MOST_FAILURES) return;
    this.#failures = 0;
    this.#retryAtMs = performance.now() + RETRY_MS;
    this.#log.info(
      { reader: this.#readerPath, how, tries: MOST_FAILURES, againInS: RETRY_MS / 1000 },
      'seccomp filters of containers cannot be read; commands in those that have one are started by the OCI runtime, and take longer',
    );
  }

  /** Takes those that an earlier berthd has left, and removes what is none. */
  #load(): void {
    if (!existsSync(this.#folder)) return;
    const files = readdirSync(this.#folder).map((name) => ({ name, file: join(this.#folder, name) }));
    const ageOf = (file: string): number => lstatSync(file).mtimeMs;
    for (const { name, file } of files.sort((a, b) => ageOf(a.file) - ageOf(b.file))) {
      const [, key, sum] = FILE_NAME.exec(name) ?? [];
      const isWhole = key !== undefined && lstatSync(file).isFile() && hash('sha256', readFileSync(file)) === sum;
      if (isWhole && !this.#known.has(key)) this.#known.set(key, { file, identity: identityIn(file) });
      else removeQuietly(file);
    }
  }
}

/**
 * What a filter depends on: the section, the runtime that compiles it, libseccomp as found in LIBRARIES, whose newer releases
 * know calls by name that older ones leave out, and the kernel. Undefined where a disk does not tell.
 */
function keyOf(seccomp: OciSeccomp, { path }: Pick<Handler, 'path'>): string | undefined {
  try {
    const identities = [path, ...LIBRARIES].map(identityOf);
    return hash('sha256', JSON.stringify([path, identities, release(), version(), seccomp]));
  } catch {
    return undefined;
  }
}

/** What cannot be removed is looked at again at the next start. */
function removeQuietly(file: string): void {
  try {
    rmSync(file, { force: true, recursive: true });
  } catch {
    // It is none of those that are used.
  }
}

/** As identityOf(), and '' for what cannot be looked at. */
function identityIn(file: string): string {
  try {
    return identityOf(file);
  } catch {
    return '';
  }
}
