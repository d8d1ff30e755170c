import { type FSWatcher, statSync, watch } from 'node:fs';
import { basename, dirname, join } from 'node:path';

import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

interface Watched {
  readonly watcher: FSWatcher;
  /** Device and inode: a folder that was replaced keeps its path only. */
  readonly identity: string;
}

/** Entries that matter in a folder; undefined: all. */
type Names = ReadonlySet<string> | undefined;

/**
 * Watches folders by inotify, also those that do not exist yet, are removed, or are replaced: their parents are
 * watched for the one name that leads to them.
 */
export class FolderWatch {
  readonly #onChange: () => void;
  readonly #log: Logger;
  readonly #watched = new Map<string, Watched>();
  #targets = new Map<string, Names>();
  #isBlind = false;

  constructor({ onChange, log }: { onChange: () => void; log: Logger }) {
    this.#onChange = onChange;
    this.#log = log;
  }

  /** Some folder cannot be watched (the user's inotify limit): who wants to know must look. */
  get isBlind(): boolean {
    return this.#isBlind;
  }

  /**
   * Watches these folders as they are now, in place of those before. True when a watch is new: what happened in that
   * folder until now went unseen. Call it again after each change.
   */
  arm(folders: readonly string[]): boolean {
    this.#targets = targetsOf(folders);
    this.#isBlind = false;
    for (const folder of this.#watched.keys()) {
      if (!this.#targets.has(folder)) this.#unwatch(folder);
    }
    let isNew = false;
    for (const folder of this.#targets.keys()) {
      if (this.#armOne(folder)) isNew = true;
    }
    return isNew;
  }

  /** Ends all watches. */
  close(): void {
    for (const folder of [...this.#watched.keys()]) this.#unwatch(folder);
  }

  #armOne(folder: string): boolean {
    const identity = identityOf(folder);
    if (this.#watched.get(folder)?.identity === identity) return false;
    this.#unwatch(folder);
    if (identity === undefined) return false;
    try {
      const watcher = watch(folder, { persistent: false }, (_event, name) => this.#changed(folder, name));
      watcher.on('error', () => {
        this.#unwatch(folder);
        this.#onChange();
      });
      this.#watched.set(folder, { watcher, identity });
      return true;
    } catch (err) {
      this.#isBlind = true;
      this.#log.warn({ folder, err: describe(err) }, 'a folder cannot be watched');
      return false;
    }
  }

  #changed(folder: string, name: string | null): void {
    // A watched folder was moved, removed or made: a new one may get the old one's inode, but not its watch.
    if (name !== null && this.#targets.has(join(folder, name))) this.#unwatch(join(folder, name));
    const names = this.#targets.get(folder);
    if (names === undefined || name === null || names.has(name)) this.#onChange();
  }

  #unwatch(folder: string): void {
    this.#watched.get(folder)?.watcher.close();
    this.#watched.delete(folder);
  }
}

function targetsOf(folders: readonly string[]): Map<string, Names> {
  const targets = new Map<string, Set<string> | undefined>();
  for (const folder of folders) {
    for (let child = folder, parent = dirname(folder); parent !== child; child = parent, parent = dirname(child)) {
      if (targets.has(parent) && targets.get(parent) === undefined) continue;
      targets.set(parent, (targets.get(parent) ?? new Set<string>()).add(basename(child)));
    }
    targets.set(folder, undefined);
  }
  return targets;
}

function identityOf(folder: string): string | undefined {
  try {
    const stats = statSync(folder, { bigint: true });
    return stats.isDirectory() ? `${stats.dev}:${stats.ino}` : undefined;
  } catch {
    return undefined;
  }
}
