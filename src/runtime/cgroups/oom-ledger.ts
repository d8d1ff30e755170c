import { basename } from 'node:path';

import type { CgroupTree } from './cgroup-tree.ts';
import { parseField } from './stats-text.ts';

/** So many parents are kept without a look at which of them are gone. */
const FORGET_FROM = 64;

/** Where the ledger keeps a parent's account for the next berthd, by the parent's path. */
export interface LedgerNotes {
  read(parent: string): string | undefined;
  write(parent: string, text: string): void;
}

/** What is known of one parent. */
interface Account {
  /** Kills in members that are gone. */
  settled: number;
  /** Kills in members that have ended, and whose cgroups may still be there. */
  readonly ended: Map<string, number>;
  /** Kills in members that went between an earlier berthd's last look and this one's first. */
  readonly unwatched: number;
  /** What was noted last. */
  noted: string;
}

/**
 * Finds the OOM killer's work in containers whose cgroups systemd has removed before anybody could look. The parent on
 * cgroup v2 counts for all that is and was in it (cgroup-v2.rst, memory.events): what its members that are there do not
 * account for, nor those that were asked before they went, happened in one that is gone. What is accounted for is noted, so
 * that the next berthd can tell what happened while there was none.
 */
export class OomLedger {
  readonly #tree: CgroupTree;
  readonly #notes: LedgerNotes;
  readonly #accounts = new Map<string, Account>();
  #forgetAt = FORGET_FROM;

  constructor(tree: CgroupTree, notes: LedgerNotes) {
    this.#tree = tree;
    this.#notes = notes;
  }

  /** How much is kept: parents, and members of them that have ended. */
  get size(): { readonly parents: number; readonly ended: number } {
    const accounts = [...this.#accounts.values()];
    return { parents: accounts.length, ended: accounts.reduce((sum, { ended }) => sum + ended.size, 0) };
  }

  /** Begins to count; before a member ends. What has happened until now is nobody's here: see unwatched(). */
  open(parent: string): void {
    const total = this.#killsIn(parent);
    if (this.#accounts.has(parent) || total === undefined) return;
    this.#forgetGone();
    const earlier = parseNote(this.#notes.read(parent));
    if (earlier) this.#settle(parent, earlier);
    const ended = earlier?.ended ?? new Map<string, number>();
    const settled = total - sumOf(ended) - this.#killsInMembers(parent, ended);
    const unwatched = earlier ? Math.max(settled - earlier.settled, 0) : 0;
    const account = { settled, ended, unwatched, noted: '' };
    this.#accounts.set(parent, account);
    this.#note(parent, account);
  }

  /**
   * Kills in members that are gone which no berthd has seen: between the last look of an earlier one and this one's
   * open(), which is called when it was not. 0 where no earlier one has looked.
   */
  unwatched(parent: string): number {
    this.open(parent);
    return this.#accounts.get(parent)?.unwatched ?? 0;
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
      if (!account) return own;
      this.#settle(parent, account);
      account.ended.set(basename(path), own);
      this.#note(parent, account);
      return own;
    }
    const total = this.#killsIn(parent);
    if (!account || total === undefined || !hasFailed) return undefined;
    this.#settle(parent, account);
    const lost = total - account.settled - sumOf(account.ended) - this.#killsInMembers(parent, account.ended);
    account.settled += Math.max(lost, 0);
    this.#note(parent, account);
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

  #note(parent: string, account: Account): void {
    const ended = [...account.ended].map(([name, kills]) => ` ${name}=${kills}`);
    const text = `${account.settled}${ended.join('')}`;
    if (text !== account.noted) this.#notes.write(parent, text);
    account.noted = text;
  }

  #settle(parent: string, account: Pick<Account, 'settled' | 'ended'>): void {
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

function sumOf(kills: ReadonlyMap<string, number>): number {
  return [...kills.values()].reduce((sum, count) => sum + count, 0);
}

function parseNote(text: string | undefined): Pick<Account, 'settled' | 'ended'> | undefined {
  const [settled, ...members] = text?.split(' ') ?? [];
  if (settled === undefined || !/^\d+$/.test(settled)) return undefined;
  const ended = new Map<string, number>();
  for (const member of members) {
    const [, name, kills] = /^(.+)=(\d+)$/.exec(member) ?? [];
    if (name === undefined) return undefined;
    ended.set(name, Number(kills));
  }
  return { settled: Number(settled), ended };
}
