import { type FSWatcher, mkdirSync, readdirSync, readFileSync, rmSync, statSync, watch } from 'node:fs';
import { join } from 'node:path';

import type { UnixMicros } from '../base/clock.ts';
import { describe, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

/** How and when a container ended, as its monitor saw it. */
export interface SeenExit {
  /** 128+n for signal n. */
  readonly exitCode: number;
  readonly finishedAtUs: UnixMicros;
}

export type ExitListener = (containerId: string, exit: SeenExit) => void;

/** Monitors write to a temporary name with a suffix and rename it. */
const CONTAINER_ID = /^[0-9a-f]{64}$/;

/**
 * Hears of exits from the files that monitors leave in the exits folder, named after the container, holding the code.
 * The file's time is the time of the exit, also for what ended while no daemon ran.
 */
export class ExitWatch {
  /** Hears of each exit, also of those from before start(), possibly more than once. Set it before start(). */
  onExit: ExitListener = () => {};
  readonly #folder: string;
  readonly #log: Logger;
  #watcher: FSWatcher | undefined;

  constructor(exitsDir: string, log: Logger) {
    this.#folder = exitsDir;
    this.#log = log;
  }

  /** Makes the folder if needed, watches it, and reports the exits that are already there. */
  start(): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    // Watching begins before the folder is read, so that nothing falls in between.
    this.#watcher = watch(this.#folder, (_event, name) => this.#onEvent(name));
    this.#watcher.on('error', (err) => {
      this.#log.error({ folder: this.#folder, err: describe(err) }, 'watch on container exits failed');
    });
    this.#scan();
  }

  /** How a container ended, or undefined while it runs. */
  read(containerId: string): SeenExit | undefined {
    const file = join(this.#folder, containerId);
    try {
      const text = readFileSync(file, 'utf8').trim();
      const exitCode = /^-?\d{1,3}$/.test(text) ? Number(text) : Number.NaN;
      if (Number.isNaN(exitCode)) {
        this.#log.warn({ container: containerId, text: text.slice(0, 100) }, 'monitor wrote an exit code that is none');
        return undefined;
      }
      const finishedAtUs = Number(statSync(file, { bigint: true }).mtimeNs / 1000n);
      return { exitCode, finishedAtUs };
    } catch (err) {
      if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return undefined;
      throw wrap(`read exit of container ${containerId}`, err);
    }
  }

  /** Forgets a container that is removed, whose monitor has ended. Missing is fine. */
  remove(containerId: string): void {
    // A monitor that was killed while it wrote leaves the file under its temporary name.
    for (const name of this.#names()) {
      if (name.startsWith(containerId)) rmSync(join(this.#folder, name), { force: true });
    }
  }

  /** Stops watching. */
  close(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #onEvent(name: string | null): void {
    // The kernel drops names when its queue overflows.
    if (name === null) this.#scan();
    else this.#report(name);
  }

  #scan(): void {
    for (const name of this.#names()) this.#report(name);
  }

  #names(): string[] {
    try {
      return readdirSync(this.#folder);
    } catch (err) {
      // It is made at start, and what a dead daemon left is removed before that.
      if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return [];
      throw err;
    }
  }

  #report(name: string): void {
    if (!CONTAINER_ID.test(name)) return;
    try {
      const exit = this.read(name);
      if (exit) this.onExit(name, exit);
    } catch (err) {
      this.#log.error({ container: name, err: describe(err) }, 'container exit was not recorded');
    }
  }
}
