import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { CgroupTree } from './cgroup-tree.ts';
import { OomLedger } from './oom-ledger.ts';

const killed = { exitCode: 137, killedAsOne: false };
const failed = { exitCode: 1, killedAsOne: false };
const well = { exitCode: 0, killedAsOne: false };

/** A slice with members, and what their memory.events say. */
class Slice {
  total = 0;
  note: string | undefined;
  readonly members = new Map<string, number>();

  get tree(): CgroupTree {
    const read = (path: string): string | undefined => {
      const kills = path === '/pod' ? this.total : this.members.get(path.slice('/pod/'.length));
      return kills === undefined ? undefined : `oom 9\noom_kill ${kills}\noom_group_kill 0`;
    };
    return { read, childNames: () => [...this.members.keys()], exists: () => true } as unknown as CgroupTree;
  }

  /** One that a berthd would have; the note outlives it. */
  ledger(): OomLedger {
    return new OomLedger(this.tree, {
      read: () => this.note,
      write: (_, text) => {
        this.note = text;
      },
    });
  }

  kill(name: string): void {
    this.total += 1;
    this.members.set(name, (this.members.get(name) ?? 0) + 1);
  }
}

test('a kill in a member that went before it was asked is found by the parent, once', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  for (const name of ['a', 'b', 'c']) slice.members.set(name, 0);
  ledger.open('/pod');
  slice.kill('a');
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/a', '/pod'), undefined, 'not before it is known how it ended');
  assert.equal(ledger.atEnd('/pod/a', '/pod', killed), 1);
  slice.members.delete('b');
  assert.equal(ledger.atEnd('/pod/b', '/pod', killed), 0, 'that was the other one');
});

test('kills of those that are there, or were asked in time, are not those of one that is gone', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  for (const name of ['a', 'b', 'c']) slice.members.set(name, 0);
  ledger.open('/pod');
  slice.kill('a');
  slice.kill('b');
  assert.equal(ledger.atEnd('/pod/a', '/pod', killed), 1);
  slice.members.delete('c');
  assert.equal(ledger.atEnd('/pod/c', '/pod', killed), 0);
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/c', '/pod', killed), 0);
  slice.kill('b');
  slice.members.delete('b');
  assert.equal(ledger.atEnd('/pod/b', '/pod', killed), 2);
});

test('of two that go at once neither is told to have run out of memory, unless it can be only one', () => {
  const pod = (names: readonly string[]): { slice: Slice; ledger: OomLedger } => {
    const slice = new Slice();
    const ledger = slice.ledger();
    for (const name of names) {
      slice.members.set(name, 0);
      ledger.watch(`/pod/${name}`, '/pod');
    }
    return { slice, ledger };
  };
  const { slice, ledger } = pod(['a', 'b', 'c', 'd']);
  slice.kill('a');
  for (const name of ['a', 'b']) slice.members.delete(name);
  assert.equal(ledger.atEnd('/pod/b', '/pod', failed), 0, 'the other is gone too');
  assert.equal(ledger.atEnd('/pod/a', '/pod', well), 0, 'and it is not that one');
  slice.members.delete('c');
  assert.equal(ledger.atEnd('/pod/c', '/pod', failed), 0, 'the kills that are nobody’s stay so');
  slice.kill('d');
  slice.members.delete('d');
  assert.equal(ledger.atEnd('/pod/d', '/pod', killed), 1, 'the last one');

  const whole = pod(['a', 'b']);
  whole.slice.kill('a');
  for (const name of ['a', 'b']) whole.slice.members.delete(name);
  assert.equal(
    whole.ledger.atEnd('/pod/b', '/pod', { exitCode: 1, killedAsOne: true }),
    0,
    'all of it would be killed',
  );
  assert.equal(whole.ledger.atEnd('/pod/a', '/pod', { exitCode: 137, killedAsOne: true }), 1);
});

test('a child that was killed in one that ended well is not blamed on who fails later', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  for (const name of ['a', 'b']) {
    slice.members.set(name, 0);
    ledger.watch(`/pod/${name}`, '/pod');
  }
  slice.kill('a');
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/a', '/pod', well), 1, 'as its own count would say');
  slice.members.delete('b');
  assert.equal(ledger.atEnd('/pod/b', '/pod', failed), 0);
});

test('kills in a container that failed to start, or was removed before it was asked, are nobody’s', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  slice.members.set('a', 0);
  ledger.watch('/pod/a', '/pod');
  slice.kill('failed');
  slice.members.delete('failed');
  ledger.forget('/pod/failed', '/pod');
  slice.kill('early');
  slice.members.delete('early');
  slice.members.set('b', 0);
  ledger.watch('/pod/b', '/pod');
  for (const name of ['a', 'b']) {
    slice.members.delete(name);
    assert.equal(ledger.atEnd(`/pod/${name}`, '/pod', killed), 0, name);
  }
  slice.members.set('c', 0);
  ledger.watch('/pod/c', '/pod');
  slice.kill('c');
  slice.members.delete('c');
  ledger.forget('/pod/c', '/pod');
  slice.members.set('d', 0);
  ledger.watch('/pod/d', '/pod');
  slice.members.delete('d');
  assert.equal(ledger.atEnd('/pod/d', '/pod', failed), 0);
});

test('what happened before anybody counted is nobody’s', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  slice.total = 7;
  slice.members.set('a', 0);
  assert.equal(ledger.atEnd('/pod/gone', '/pod', killed), undefined, 'not opened');
  ledger.open('/pod');
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/a', '/pod', killed), 0);
});

test('neither restarts nor pods that are gone make it grow', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  ledger.open('/pod');
  for (let round = 0; round < 100; round += 1) {
    const name = `container-${round}`;
    slice.kill(name);
    assert.equal(ledger.atEnd(`/pod/${name}`, '/pod', killed), 1);
    slice.members.delete(name);
  }
  assert.deepEqual(ledger.size, { parents: 1, ended: 1 });
  slice.members.set('last', 0);
  slice.kill('last');
  slice.members.delete('last');
  assert.equal(ledger.atEnd('/pod/last', '/pod', killed), 1, 'and it still counts right');
  const there = new Set<string>();
  const pods = {
    read: (path: string) => (there.has(path) ? 'oom_kill 0' : undefined),
    childNames: () => [],
    exists: (path: string) => there.has(path),
  };
  const many = new OomLedger(pods as unknown as CgroupTree, { read: () => undefined, write() {} });
  for (let round = 0; round < 1000; round += 1) {
    there.clear();
    there.add(`/pod-${round}`);
    many.open(`/pod-${round}`);
  }
  assert.ok(many.size.parents <= 64, String(many.size.parents));
});

test('kills while nobody looked are known by what an earlier ledger has noted, and are nobody’s later', () => {
  const slice = new Slice();
  for (const name of ['a', 'b', 'c', 'd']) slice.members.set(name, 0);
  slice.total = 5;
  const earlier = slice.ledger();
  assert.equal(earlier.unwatched('/pod'), 0, 'nobody has looked before');
  slice.kill('a');
  assert.equal(earlier.atEnd('/pod/a', '/pod', killed), 1);
  slice.kill('b');
  slice.members.delete('b');
  assert.equal(earlier.atEnd('/pod/b', '/pod', killed), 1);
  slice.members.delete('a');
  slice.kill('c');
  assert.equal(slice.ledger().unwatched('/pod'), 0, 'c is there, and tells by itself');
  slice.kill('c');
  slice.members.delete('c');
  const later = slice.ledger();
  assert.equal(later.unwatched('/pod'), 2);
  slice.members.delete('d');
  assert.equal(later.atEnd('/pod/d', '/pod', killed), 0);
  assert.equal(slice.ledger().unwatched('/pod'), 0, 'told once');
});

test('a member that has ended and is still there is accounted for by the next ledger too', () => {
  const slice = new Slice();
  const earlier = slice.ledger();
  earlier.open('/pod');
  slice.kill('a');
  assert.equal(earlier.atEnd('/pod/a', '/pod', killed), 1);
  const later = slice.ledger();
  assert.equal(later.unwatched('/pod'), 0);
  slice.members.delete('a');
  assert.equal(later.atEnd('/pod/b', '/pod', killed), 0);
});

test('a note that makes no sense is none', () => {
  const slice = new Slice();
  slice.total = 3;
  for (const note of ['', 'x', '1 a', '-1', '1 a=b']) {
    slice.note = note;
    assert.equal(slice.ledger().unwatched('/pod'), 0, note);
    assert.equal(slice.note, '3');
  }
});
