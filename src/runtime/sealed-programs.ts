import {
  closeSync,
  copyFile,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';

import { sleep, withDeadline } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import { isErrno } from '../sys/errno.ts';
import { createMemoryFile, sealMemoryFile } from '../sys/memory-file.ts';
import { openReadonlyView } from '../sys/mount.ts';
import type { Handler } from './handler.ts';

const copy = promisify(copyFile);
/** How a program begins that is no script (elf(5)). */
const ELF = Buffer.from('\x7fELF', 'latin1');
const TRY_TIMEOUT_MS = 10_000;
const TRY_AGAIN_MS = 10;
/** A monitor that was given a copy starts it within this time, or its container is given up. */
const LAST_USE_MS = 120_000;
/** Copies that wait for their last use: a container that changes each new one shall not fill the memory with them. */
const MOST_RETIRED = 3;
/** What failed may have been the moment's fault. */
const RETRY_MS = 60_000;

/** A program's copy, or read-only view, or that there is none. */
interface Sealed {
  /** What the program's file was when it was copied. */
  readonly original: string;
  /** A link to the copy, with a name that people know in lists of processes; undefined while there is none. */
  link: string | undefined;
  fd: number | undefined;
  /** When the copy's mode, owner or attributes were last changed, which seals do not forbid. */
  changedNs: bigint;
}

/**
 * Copies of OCI runtimes in sealed memory files. A container must never reach the runtime's own program to write to it
 * (CVE-2019-5736), so runc copies itself into such a file whenever it makes or joins a container, and starts anew from
 * there. It spares itself both when it is started from one, as its contrib/cmd/memfd-bind has it. The copy takes as much
 * memory as the program is large, once, from the first container on. Of a program of Berth's own that joins containers
 * there is a read-only view in place of a copy.
 */
export class SealedPrograms {
  readonly #folder: string;
  readonly #processes: Pick<Processes, 'run'>;
  readonly #log: Logger;
  readonly #sealed = new Map<string, Sealed>();
  readonly #retired = new Set<number>();
  readonly #work = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  /** Keeps its links in `<state>/sealed`. */
  constructor(deps: { readonly stateDir: string; readonly processes: Pick<Processes, 'run'>; readonly log: Logger }) {
    this.#folder = join(deps.stateDir, 'sealed');
    this.#processes = deps.processes;
    this.#log = deps.log;
  }

  /**
   * What to start a handler's program by: its copy where it would make one itself and the copy is ready, else its own
   * path. The first call has the copy made, beside other work; so has the first after the program was replaced.
   */
  pathOf({ path, copiesItself }: Pick<Handler, 'path' | 'copiesItself'>): string {
    return copiesItself ? (this.#linkOf(path, sealedCopy) ?? path) : path;
  }

  /**
   * What to start a program by that joins containers and cannot be changed from there, also not in its mode, nor be opened
   * for writing, so that it could not be executed any more. It is the file itself, on a read-only mount; as with pathOf()
   * the first call has it made. Undefined while there is none, and where the program says by `--version` that it cannot
   * run.
   */
  readonlyPathOf(path: string): string | undefined {
    return this.#linkOf(path, openReadonlyView);
  }

  #linkOf(path: string, open: (path: string) => number | Promise<number>): string | undefined {
    if (this.#closing.signal.aborted) return undefined;
    const known = this.#sealed.get(path);
    const now = identityOf(path);
    if (now === '') return undefined;
    if (known?.original === now && !isTampered(known)) return known.link;
    if (known && this.#retired.size >= MOST_RETIRED) return undefined;
    if (known) this.#retire(known);
    const sealed: Sealed = { original: now, link: undefined, fd: undefined, changedNs: 0n };
    this.#sealed.set(path, sealed);
    // A program has the SELinux domain that its file gives it, and a memory file would give it another one.
    if (!existsSync('/sys/fs/selinux/enforce') && isBinary(path)) this.#begin(path, sealed, open);
    return undefined;
  }

  /** Waits for copies that are being made, and lets go of all. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    await Promise.all(this.#work);
    for (const sealed of this.#sealed.values()) this.#retire(sealed);
    for (const fd of this.#retired) closeSync(fd);
    this.#retired.clear();
    this.#sealed.clear();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #begin(path: string, sealed: Sealed, open: (path: string) => number | Promise<number>): void {
    const work = this.#seal(path, sealed, open).catch((err: unknown) => {
      this.#tellMissing(path, describe(err));
      setTimeout(() => {
        if (this.#sealed.get(path) === sealed) this.#sealed.delete(path);
      }, RETRY_MS).unref();
    });
    this.#work.add(work);
    void work.then(() => this.#work.delete(work));
  }

  async #seal(path: string, sealed: Sealed, open: (path: string) => number | Promise<number>): Promise<void> {
    const fd = await open(path);
    try {
      const link = this.#linkTo(path, fd);
      const exitCode = await this.#try(link);
      if (exitCode !== 0) {
        this.#tellMissing(path, `the first run of it ended with ${exitCode}`);
        return closeSync(fd);
      }
      // Replaced meanwhile, there is another copy on its way.
      if (this.#sealed.get(path) !== sealed || identityOf(path) !== sealed.original) return closeSync(fd);
      sealed.fd = fd;
      sealed.changedNs = fstatSync(fd, { bigint: true }).ctimeNs;
      sealed.link = link;
    } catch (err) {
      closeSync(fd);
      throw err;
    }
  }

  /** All goes on as it would without. */
  #tellMissing(path: string, err: string): void {
    this.#log.info(
      { program: path, err },
      'there is no form of the program that containers cannot change; the OCI runtime does all itself, and takes longer',
    );
  }

  /**
   * Runs it once. A process that is just being started has all descriptors of this one for a moment, until it closes them,
   * also the one that the copy was written by, and what is open for writing cannot be executed.
   */
  async #try(link: string): Promise<number> {
    using limited = withDeadline(`first run of ${link}`, TRY_TIMEOUT_MS, this.#closing.signal);
    for (;;) {
      try {
        const command = { path: link, args: ['--version'], timeoutMs: TRY_TIMEOUT_MS };
        const { exitCode } = await this.#processes.run(command, limited);
        return exitCode;
      } catch (err) {
        if (!isErrno(err, 'ETXTBSY')) throw err;
        await sleep(TRY_AGAIN_MS, limited);
      }
    }
  }

  #linkTo(path: string, fd: number): string {
    const folder = join(this.#folder, String(fd));
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const link = join(folder, basename(path));
    // An earlier daemon may have been killed, and its link leads nowhere.
    rmSync(link, { force: true });
    symlinkSync(`/proc/${process.pid}/fd/${fd}`, link);
    return link;
  }

  #retire({ fd }: Sealed): void {
    if (fd === undefined) return;
    this.#retired.add(fd);
    const timer = setTimeout(() => {
      if (this.#retired.delete(fd)) closeSync(fd);
    }, LAST_USE_MS);
    timer.unref();
  }
}

/** A container that runs it, as `/proc/self/exe` of a script, can take everybody's right to execute it. */
function isTampered({ fd, changedNs }: Sealed): boolean {
  return fd !== undefined && fstatSync(fd, { bigint: true }).ctimeNs !== changedNs;
}

async function sealedCopy(path: string): Promise<number> {
  const fd = createMemoryFile(basename(path));
  try {
    await copy(path, `/proc/self/fd/${fd}`);
  } catch (err) {
    closeSync(fd);
    throw err;
  }
  return sealMemoryFile(fd);
}

/** False for a script: it may ask for its own place, and has nothing to copy. Throws what the file system says. */
export function isBinary(path: string): boolean {
  const start = Buffer.alloc(ELF.length);
  const fd = openSync(path, 'r');
  try {
    return readSync(fd, start) === ELF.length && start.equals(ELF);
  } finally {
    closeSync(fd);
  }
}

/** Changes when the program is replaced or written to; '' when it is gone. */
export function identityOf(path: string): string {
  const facts = statSync(path, { throwIfNoEntry: false });
  return facts ? [facts.dev, facts.ino, facts.size, facts.mtimeMs, facts.ctimeMs].join(' ') : '';
}
