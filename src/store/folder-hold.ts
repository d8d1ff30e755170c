import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

import { because } from '../base/errors.ts';
import { storeError } from './store-error.ts';

/**
 * A folder held for this process. The lock is an open transaction on an empty database, `berthd.lock`: the kernel
 * drops it with the process, even after kill -9. Who has it stands in `berthd.pid`, written only under the lock.
 */
export class FolderHold {
  readonly #lock: Database.Database;
  readonly #pidFile: string;

  private constructor(lock: Database.Database, pidFile: string) {
    this.#lock = lock;
    this.#pidFile = pidFile;
  }

  /** Takes a folder that `flag` can move. Throws `precondition` naming the process that has it already. */
  static take(folder: string, flag: '--root' | '--state'): FolderHold {
    const file = join(folder, 'berthd.lock');
    const pidFile = join(folder, 'berthd.pid');
    let lock: Database.Database | undefined;
    try {
      lock = new Database(file, { timeout: 0 });
      chmodSync(file, 0o600);
      // Nothing is ever written, so nothing needs a journal file.
      lock.pragma('journal_mode = MEMORY');
      // Not EXCLUSIVE, for which two that start at once could refuse each other.
      lock.exec('BEGIN IMMEDIATE');
      writeFileSync(pidFile, `${process.pid}\n`, { mode: 0o600 });
      return new FolderHold(lock, pidFile);
    } catch (err) {
      lock?.close();
      if (err instanceof Database.SqliteError && err.code.startsWith('SQLITE_BUSY')) {
        const holder = readHolder(pidFile);
        throw because('precondition', `folder ${folder} is in use by ${holder}: stop it, or set another ${flag}`, err);
      }
      throw storeError(`lock folder ${folder} by ${file}`, err);
    }
  }

  close(): void {
    // While it is still ours: a moment later the file may be another's.
    rmSync(this.#pidFile, { force: true });
    this.#lock.close();
  }
}

function readHolder(pidFile: string): string {
  try {
    const pid = readFileSync(pidFile, 'utf8').trim();
    return /^\d+$/.test(pid) ? `the berthd with pid ${pid}` : 'another berthd';
  } catch {
    return 'another berthd';
  }
}
