import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { CgroupTree } from './cgroup-tree.ts';
import { OomLedger } from './oom-ledger.ts';

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
  assert.equal(ledger.atEnd('/pod/a', '/pod', false), undefined, 'not of one that ended by itself');
  assert.equal(ledger.atEnd('/pod/a', '/pod', true), 1);
  slice.members.delete('b');
  assert.equal(ledger.atEnd('/pod/b', '/pod', true), 0, 'that was the other one');
});

test('kills of those that are there, or were asked in time, are not those of one that is gone', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  for (const name of ['a', 'b', 'c']) slice.members.set(name, 0);
  ledger.open('/pod');
  slice.kill('a');
  slice.kill('b');
  assert.equal(ledger.atEnd('/pod/a', '/pod', true), 1);
  slice.members.delete('c');
  assert.equal(ledger.atEnd('/pod/c', '/pod', true), 0);
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/c', '/pod', true), 0);
  slice.kill('b');
  slice.members.delete('b');
  assert.equal(ledger.atEnd('/pod/b', '/pod', true), 2);
});

test('what happened before anybody counted is nobody’s', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  slice.total = 7;
  slice.members.set('a', 0);
  assert.equal(ledger.atEnd('/pod/gone', '/pod', true), undefined, 'not opened');
  ledger.open('/pod');
  slice.members.delete('a');
  assert.equal(ledger.atEnd('/pod/a', '/pod', true), 0);
});

test('neither restarts nor pods that are gone make it grow', () => {
  const slice = new Slice();
  const ledger = slice.ledger();
  ledger.open('/pod');
  for (let round = 0; round < 100; round += 1) {
    const name = `container-${round}`;
    slice.kill(name);
    assert.equal(ledger.atEnd(`/pod/${name}`, '/pod', true), 1);
    slice.members.delete(name);
  }
  assert.deepEqual(ledger.size, { parents: 1, ended: 1 });
  slice.members.set('last', 0);
  slice.kill('last');
  slice.members.delete('last');
  assert.equal(ledger.atEnd('/pod/last', '/pod', true), 1, 'and it still counts right');
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
  assert.equal(earlier.atEnd('/pod/a', '/pod', true), 1);
  slice.kill('b');
  slice.members.delete('b');
  assert.equal(earlier.atEnd('/pod/b', '/pod', true), 1);
  slice.members.delete('a');
  slice.kill('c');
  assert.equal(slice.ledger().unwatched('/pod'), 0, 'c is there, and tells by itself');
  slice.kill('c');
  slice.members.delete('c');
  const later = slice.ledger();
  assert.equal(later.unwatched('/pod'), 2);
  slice.members.delete('d');
  assert.equal(later.atEnd('/pod/d', '/pod', true), 0);
  assert.equal(slice.ledger().unwatched('/pod'), 0, 'told once');
});

test('a member that has ended and is still there is accounted for by the next ledger too', () => {
  const slice = new Slice();
  const earlier = slice.ledger();
  earlier.open('/pod');
  slice.kill('a');
  assert.equal(earlier.atEnd('/pod/a', '/pod', true), 1);
  const later = slice.ledger();
  assert.equal(later.unwatched('/pod'), 0);
  slice.members.delete('a');
  assert.equal(later.atEnd('/pod/b', '/pod', true), 0);
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
