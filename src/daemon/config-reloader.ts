import { isDeepStrictEqual } from 'node:util';

import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { FolderWatch } from '../cni/folder-watch.ts';
import type { ConfigChanges } from '../config/compare-configs.ts';
import type { Config } from '../config/load-config.ts';

/** From the first sign of a change to the reading: editors write in pieces. */
const SETTLE_MS = 300;

/** What reloading needs. */
export interface ConfigReloaderParts {
  /** The configuration file, there or not; its drop-ins are in `<file>.d`. */
  readonly file: string;
  /** Reads all files. Throws what is wrong with them. */
  readonly read: () => Config;
  /** Takes a configuration over and tells what changed. Throws when it cannot be, with the one before in force. */
  readonly apply: (config: Config) => Promise<ConfigChanges>;
  /** Tells what came of a reload: a problem, or ''. */
  readonly onEnd: (problem: string) => void;
  /** Does the work between the words that the service manager waits for. */
  readonly announce: (work: () => Promise<void>) => Promise<void>;
  readonly log: Logger;
  readonly settleMs?: number;
}

/**
 * Reloads the configuration, on demand and when its files change, one reload after another. What cannot be used changes
 * nothing: the running configuration goes on, and the log says why.
 */
export class ConfigReloader {
  readonly #parts: ConfigReloaderParts;
  readonly #watch: FolderWatch;
  #turn: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  /** What the files said last: a configuration, or why there is none. */
  #seen: Config | string | undefined;
  #isClosed = false;

  constructor(parts: ConfigReloaderParts) {
    this.#parts = parts;
    this.#watch = new FolderWatch({ log: parts.log, onChange: () => this.#changed() });
  }

  /** Begins to watch the files of this configuration, and looks whether they have changed since it was read. */
  watch(running: Config): void {
    this.#seen ??= running;
    this.#arm();
    this.#changed();
  }

  /** Reloads because somebody wants it. Never throws. */
  async reload(): Promise<void> {
    await this.#enqueue(true);
  }

  /** Ends the watch, and waits for a reload that is under way. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#watch.close();
    await this.#turn;
  }

  #arm(): boolean {
    const { file } = this.#parts;
    return this.#watch.arm([file, `${file}.d`]);
  }

  #changed(): void {
    if (this.#isClosed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      // A folder of drop-ins that is new has files that nobody has told of.
      this.#arm();
      void this.#enqueue(false);
    }, this.#parts.settleMs ?? SETTLE_MS).unref();
  }

  async #enqueue(isWanted: boolean): Promise<void> {
    this.#turn = this.#turn.then(() => this.#reload(isWanted));
    await this.#turn;
  }

  async #reload(isWanted: boolean): Promise<void> {
    const { log, announce, onEnd } = this.#parts;
    const said = this.#read();
    if (!isWanted && isDeepStrictEqual(said, this.#seen)) return;
    this.#seen = said;
    try {
      await announce(async () => this.#apply(said));
      onEnd('');
    } catch (err) {
      onEnd(describe(err));
      log.error({ err: describe(err) }, 'configuration not reloaded; the running one goes on');
    }
  }

  async #apply(said: Config | string): Promise<void> {
    if (typeof said === 'string') throw new Error(said);
    const { live, waiting } = await this.#parts.apply(said);
    this.#parts.log.info({ changed: live }, 'configuration reloaded');
    if (waiting.length > 0) this.#parts.log.warn({ keys: waiting }, 'these keys have changed and need a restart');
  }

  #read(): Config | string {
    try {
      return this.#parts.read();
    } catch (err) {
      return describe(err);
    }
  }
}
