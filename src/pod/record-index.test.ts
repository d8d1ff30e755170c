import assert from 'node:assert/strict';
import { test } from 'node:test';

import { RecordIndex } from './record-index.ts';

const record = (id: string, name = `n-${id}`) => ({ id, name });

function makeIndex(...records: { id: string; name: string }[]) {
  const stored: string[] = [];
  const store = {
    put: (r: { id: string }) => void stored.push(`put ${r.id}`),
    delete: (id: string) => void stored.push(`delete ${id}`),
  };
  return { index: new RecordIndex('sandbox', store, records), stored };
}

test('finds by id, by the beginning of one, and by name', () => {
  const { index } = makeIndex(record('abc1'), record('abd2'));
  assert.equal(index.find('abc1')?.id, 'abc1');
  assert.equal(index.find('abc'), undefined);
  assert.equal(index.getByPrefix('abc').id, 'abc1');
  assert.equal(index.findByName('n-abd2')?.id, 'abd2');
});

test('an ambiguous beginning is an error, not a guess; an empty one is nobody', () => {
  const { index } = makeIndex(record('abc1'), record('abd2'));
  assert.throws(() => index.findByPrefix('ab'), { kind: 'invalid', message: /ambiguous: 2 ids/ });
  assert.throws(() => index.getByPrefix(''), { kind: 'notFound' });
});

test('a full id wins over ids that it begins', () => {
  const { index } = makeIndex(record('ab'), record('abc'));
  assert.equal(index.getByPrefix('ab').id, 'ab');
});

test('a name belongs to one record until that is deleted', () => {
  const { index, stored } = makeIndex(record('a', 'web'));
  assert.throws(() => index.put(record('b', 'web')), {
    kind: 'alreadyExists',
    message: 'sandbox name web is taken by a',
  });
  index.delete('a');
  index.put(record('b', 'web'));
  assert.equal(index.findByName('web')?.id, 'b');
  assert.deepEqual(stored, ['delete a', 'put b']);
});

test('what could not be stored is not there', () => {
  const store = {
    put: (_record: { id: string; name: string }) => {
      throw new Error('disk full');
    },
    delete() {},
  };
  const index = new RecordIndex('sandbox', store, []);
  assert.throws(() => index.put(record('a')), /disk full/);
  assert.equal(index.find('a'), undefined);
});

test('tells of each change what was and what is, once it is stored', () => {
  const { index, stored } = makeIndex(record('a'));
  const told: unknown[] = [];
  index.watch((before, after) => told.push([before?.name, after?.name, stored.length]));
  index.put(record('b'));
  index.put(record('b', 'renamed'));
  index.delete('a');
  index.delete('a');
  assert.deepEqual(told, [
    [undefined, 'n-b', 1],
    ['n-b', 'renamed', 2],
    ['n-a', undefined, 3],
  ]);
});

test('a fact is there even if it could not be stored, and is stored with the next record', () => {
  const stored: string[] = [];
  let isFull = true;
  const store = {
    put: ({ id }: { id: string }) => {
      if (isFull) throw new Error('disk full');
      stored.push(id);
    },
    delete() {},
  };
  const index = new RecordIndex('sandbox', store, [record('a'), record('b')]);
  const told: unknown[] = [];
  index.watch((before, after) => told.push([before?.name, after?.name]));
  assert.equal(index.putFact(record('a', 'ended')), false);
  assert.equal(index.putFact(record('b', 'ended too')), false);
  assert.deepEqual([index.get('a').name, told.length, stored], ['ended', 2, []]);
  index.delete('b');
  isFull = false;
  assert.equal(index.putFact(record('c')), true);
  index.put(record('d'));
  assert.deepEqual(stored, ['c', 'a', 'd']);
});
