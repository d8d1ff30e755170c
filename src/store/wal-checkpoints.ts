import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import type { Database } from 'better-sqlite3';

import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./wal-checkpoint-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

const PAGE_BYTES = 4096;
/** How long the log may grow before it is moved into the database. */
const LOG_BYTES = 4 * 1024 * 1024;
/** With writes all the time no checkpoint comes to the end of the log; then the main thread moves the last pages. */
const LONGEST_LOG_BYTES = 4 * LOG_BYTES;
const LOOK_EVERY_MS = 1_000;
/** A thread takes some megabytes: it ends when there was nothing for it for so many looks. */
const IDLE_LOOKS = 3;
const ANSWER_TIMEOUT_MS = 60_000;

/** How much is in the write-ahead log, in pages. */
interface LogPages {
  readonly log: number;
  /** Of these, what is in the database too; when all are, the next write begins the log anew. */
  readonly checkpointed: number;
}

/**
 * Checkpoints of a database in WAL mode by a thread, in place of SQLite's own, which has whoever writes wait for the disk:
 * for seconds, while a pull keeps that busy. The thread starts with the first checkpoint that is due.
 */
export class WalCheckpoints {
  readonly #db: Database;
  readonly #log: Logger;
  readonly #timer: NodeJS.Timeout;
  #worker: Worker | undefined;
  #running: Promise<void> | undefined;
  #idleLooks = 0;
  #hasFailed = false;

  constructor(db: Database, log: Logger) {
    this.#db = db;
    this.#log = log;
    db.pragma('wal_autocheckpoint = 0');
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
    this.#timer.unref();
  }

  /** Waits for the checkpoint that runs, and ends the thread. The database is not closed. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
    await this.#worker?.terminate();
  }

  #look(): void {
    if (this.#running !== undefined) return;
    const pages = this.#pages();
    if (pages.log * PAGE_BYTES > LOG_BYTES && pages.checkpointed < pages.log) {
      this.#idleLooks = 0;
      this.#running = this.#checkpoint().finally(() => {
        this.#running = undefined;
      });
      return;
    }
    this.#idleLooks += 1;
    if (this.#idleLooks < IDLE_LOOKS || !this.#worker) return;
    void this.#worker.terminate();
    this.#worker = undefined;
  }

  /** Never rejects. */
  async #checkpoint(): Promise<void> {
    try {
      const problem = await this.#ask();
      if (problem !== '') throw new Error(problem);
      if (this.#pages().log * PAGE_BYTES > LONGEST_LOG_BYTES) this.#db.pragma('wal_checkpoint(PASSIVE)');
      this.#hasFailed = false;
    } catch (err) {
      // It is tried every second.
      if (!this.#hasFailed) this.#log.warn({ err: describe(err) }, 'the log of the database cannot be moved into it');
      this.#hasFailed = true;
    }
  }

  #pages(): LogPages {
    const [row] = this.#db.pragma('wal_checkpoint(NOOP)') as LogPages[];
    return row ?? { log: 0, checkpointed: 0 };
  }

  async #ask(): Promise<string> {
    this.#worker ??= this.#start();
    const worker = this.#worker;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const onExit = (): void => reject(new Error('its thread has ended'));
    const timer = setTimeout(() => reject(new Error(`no answer within ${ANSWER_TIMEOUT_MS} ms`)), ANSWER_TIMEOUT_MS);
    worker.once('message', resolve).once('error', reject).once('exit', onExit);
    worker.postMessage('');
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      worker.off('message', resolve).off('error', reject).off('exit', onExit);
    }
  }

  #start(): Worker {
    const worker = new Worker(workerUrl, {
      name: 'checkpoints',
      workerData: this.#db.name,
      execArgv: [],
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 },
    });
    // Also for a thread that dies while nobody waits for it.
    worker.on('error', () => {});
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    worker.unref();
    return worker;
  }
}
