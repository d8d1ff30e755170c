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

/** How a member has ended. */
export interface MemberEnd {
  /** 128+n for signal n. */
  readonly exitCode: number;
  /** The OOM killer ends all of it or nothing (memory.oom.group), as the kubelet has it. */
  readonly killedAsOne: boolean;
}

/** The code of a process that SIGKILL has ended. */
const KILLED = 137;

/** False when the OOM killer was certainly not at work in it. A child may be killed, and the rest end well. */
export function mayBeOutOfMemory({ exitCode, killedAsOne }: MemberEnd): boolean {
  return exitCode === KILLED || !killedAsOne;
}

/** What is known of one parent. */
interface Account {
  /** Members whose end has not been told. */
  readonly watched: Set<string>;
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
 * account for, nor those that were asked before they went, happened in one that is gone. Where it may have been one of
 * several it is nobody's: none is blamed for another. What is accounted for is noted, so that the next berthd can tell what
 * happened while there was none.
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
    const account = { watched: new Set<string>(), settled, ended, unwatched, noted: '' };
    this.#accounts.set(parent, account);
    this.#note(parent, account);
  }

  /** As open(), and expects the end of this member. */
  watch(path: string, parent: string): void {
    this.open(parent);
    const account = this.#accounts.get(parent);
    if (!account) return;
    account.watched.add(basename(path));
    this.#forgetStrangers(parent, account);
  }

  /** This member is removed: its end was told, or never will be. */
  forget(path: string, parent: string): void {
    const account = this.#accounts.get(parent);
    if (!account) return;
    account.watched.delete(basename(path));
    this.#forgetStrangers(parent, account);
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
   * Kills in a member that has ended: by its own count where it is still there, else by the parent's, once it is known how
   * it ended. Undefined when nothing tells.
   */
  atEnd(path: string, parent: string, end?: MemberEnd): number | undefined {
    const account = this.#accounts.get(parent);
    const own = this.#killsIn(path);
    if (own !== undefined) {
      // A container that is started again and again has a new name each time.
      if (!account) return own;
      this.#settle(parent, account);
      account.watched.delete(basename(path));
      account.ended.set(basename(path), own);
      this.#note(parent, account);
      return own;
    }
    if (!account || !end) return undefined;
    account.watched.delete(basename(path));
    if (!mayBeOutOfMemory(end)) return 0;
    const others = this.#goneUntold(parent, account);
    const lost = this.#takeLost(parent, account);
    if (lost === undefined) return undefined;
    return others.length === 0 ? lost : 0;
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

  // What was killed in members that nobody watches (one that failed to start) shall be nobody's later. While a watched one
  // is gone it may be that one's.
  #forgetStrangers(parent: string, account: Account): void {
    // As nearly always: one small file in place of one for each member.
    if ((this.#killsIn(parent) ?? 0) === 0) return;
    if (this.#goneUntold(parent, account).length === 0) this.#takeLost(parent, account);
  }

  #goneUntold(parent: string, { watched }: Account): string[] {
    if (watched.size === 0) return [];
    const there = new Set(this.#tree.childNames(parent));
    return [...watched].filter((name) => !there.has(name));
  }

  /** Kills in members that are gone which nobody was told of; from now on they are told. Undefined for a parent that is gone. */
  #takeLost(parent: string, account: Account): number | undefined {
    const total = this.#killsIn(parent);
    if (total === undefined) return undefined;
    this.#settle(parent, account);
    const counted = account.settled + sumOf(account.ended) + this.#killsInMembers(parent, account.ended);
    const lost = Math.max(total - counted, 0);
    account.settled += lost;
    this.#note(parent, account);
    return lost;
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
