import { basename } from 'node:path';

import type { CgroupTree } from './cgroup-tree.ts';
import { parseField } from './stats-text.ts';

/** So many parents are kept without a look at which of them are gone. */
const FORGET_FROM = 64;

/** What is known of one parent. */
interface Account {
  /** Kills in members that are gone. */
  settled: number;
  /** Kills in members that have ended, and whose cgroups may still be there. */
  readonly ended: Map<string, number>;
}

/**
 * Finds the OOM killer's work in containers whose cgroups systemd has removed before anybody could look. The parent on
 * cgroup v2 counts for all that is and was in it (cgroup-v2.rst, memory.events): what its members that are there do not
 * account for, nor those that were asked before they went, happened in one that is gone.
 */
export class OomLedger {
  readonly #tree: CgroupTree;
  readonly #accounts = new Map<string, Account>();
  #forgetAt = FORGET_FROM;

  constructor(tree: CgroupTree) {
    this.#tree = tree;
  }

  /** How much is kept: parents, and members of them that have ended. */
  get size(): { readonly parents: number; readonly ended: number } {
    const accounts = [...this.#accounts.values()];
    return { parents: accounts.length, ended: accounts.reduce((sum, { ended }) => sum + ended.size, 0) };
  }

  /** Begins to count; before a member ends. What has happened until now is nobody's. */
  open(parent: string): void {
    const total = this.#killsIn(parent);
    if (this.#accounts.has(parent) || total === undefined) return;
    this.#forgetGone();
    this.#accounts.set(parent, { settled: total - this.#killsInMembers(parent, new Map()), ended: new Map() });
  }

  /**
   * Kills in a member that has ended: by its own count where it is still there, else, of one that has failed, by the
   * parent's. Undefined when nothing tells.
   */
  atEnd(path: string, parent: string, hasFailed: boolean): number | undefined {
    const account = this.#accounts.get(parent);
    const own = this.#killsIn(path);
    if (own !== undefined) {
      // A container that is started again and again has a new name each time.
      if (account) this.#settle(parent, account);
      account?.ended.set(basename(path), own);
      return own;
    }
    const total = this.#killsIn(parent);
    if (!account || total === undefined || !hasFailed) return undefined;
    this.#settle(parent, account);
    const accounted = account.settled + [...account.ended.values()].reduce((sum, kills) => sum + kills, 0);
    const lost = total - accounted - this.#killsInMembers(parent, account.ended);
    account.settled += Math.max(lost, 0);
    return Math.max(lost, 0);
  }

  /** Forgets a parent that is gone. */
  close(parent: string): void {
    if (!this.#tree.exists(parent)) this.#accounts.delete(parent);
  }

  // A kubelet removes its slices itself. All are looked at only when there are twice as many as were left the last time.
  #forgetGone(): void {
    if (this.#accounts.size < this.#forgetAt) return;
    for (const parent of [...this.#accounts.keys()]) this.close(parent);
    this.#forgetAt = Math.max(FORGET_FROM, 2 * this.#accounts.size);
  }

  #settle(parent: string, account: Account): void {
    const there = new Set(this.#tree.childNames(parent));
    for (const [name, kills] of account.ended) {
      if (there.has(name)) continue;
      account.settled += kills;
      account.ended.delete(name);
    }
  }

  #killsInMembers(parent: string, without: ReadonlyMap<string, number>): number {
    const names = this.#tree.childNames(parent).filter((name) => !without.has(name));
    return names.reduce((sum, name) => sum + (this.#killsIn(`${parent}/${name}`) ?? 0), 0);
  }

  #killsIn(path: string): number | undefined {
    return parseField(this.#tree.read(path, 'memory', 'memory.events'), 'oom_kill');
  }
}
