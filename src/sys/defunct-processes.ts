import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** Processes whose state is read at a time: more would keep the threads that all file access shares. */
const AT_A_TIME = 16;
const FRESH_MS = 15_000;
/** A parent may take a moment; this one does. */
const REAPED_WITHIN_MS = 200;

/**
 * Counts the host's processes that have ended and that their parents do not reap (state Z of proc_pid_stat(5)). Many
 * questions in a short time are answered with one count: it reads a file for each process.
 */
export class DefunctProcesses {
  readonly #proc: string;
  readonly #freshMs: number;
  #counted: { readonly atMs: number; readonly count: Promise<number> } | undefined;

  constructor(options?: { readonly proc?: string; readonly freshMs?: number }) {
    this.#proc = options?.proc ?? '/proc';
    this.#freshMs = options?.freshMs ?? FRESH_MS;
  }

  /** As of some seconds ago at most. Throws what the kernel says when the processes cannot be listed. */
  async count(): Promise<number> {
    const nowMs = performance.now();
    if (!this.#counted || nowMs - this.#counted.atMs >= this.#freshMs)
      this.#counted = { atMs: nowMs, count: this.#count() };
    return await this.#counted.count;
  }

  async #count(): Promise<number> {
    const pids = (await readdir(this.#proc)).filter((name) => /^\d+$/.test(name));
    const ended = await this.#defunctOf(pids);
    if (ended.length === 0) return 0;
    await delay(REAPED_WITHIN_MS, undefined, { ref: false });
    return (await this.#defunctOf(ended)).length;
  }

  async #defunctOf(pids: readonly string[]): Promise<string[]> {
    const left = [...pids];
    const defunct: string[] = [];
    const next = async (): Promise<void> => {
      for (let pid = left.pop(); pid !== undefined; pid = left.pop()) if (await this.#isDefunct(pid)) defunct.push(pid);
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, next));
    return defunct;
  }

  async #isDefunct(pid: string): Promise<boolean> {
    // One that has gone meanwhile is none.
    const text = await readFile(`${this.#proc}/${pid}/stat`, 'latin1').catch(() => '');
    // The name before it may hold anything, also a parenthesis.
    return text.slice(text.lastIndexOf(')') + 2).startsWith('Z');
  }
}
