/** What is known of pods and images outlives the database that it is in. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import Database from 'better-sqlite3';
import fc from 'fast-check';

import { systemClock } from '../base/clock.ts';
import { silentLogger } from '../base/log.ts';
import { Store, type StoredTypes } from './store.ts';

/** Places of a changed bit; all of the header and hundreds of others were tried with more. */
const RUNS = Number(process.env['BERTH_TEST_FLIPS'] ?? 25);

const record = (id: string, state = 'ready') => ({
  id,
  name: `name-${id}`,
  state,
  createdAtUs: 1,
  spec: 'x'.repeat(900),
});
const layer = (diffId: string) => ({ diffId, sizeBytes: 5, inodes: 6, createdAtUs: 7 });

suite('copies of records', () => {
  let root: string;
  let state: string;
  let store: Store<StoredTypes>;
  const file = (): string => join(root, 'berth.db');
  const open = (): void => {
    store = Store.open(root, systemClock, state);
    store.startCopies(silentLogger);
  };
  /** Everything that is kept, to be compared. */
  const all = (): unknown => [
    store.sandboxes.all(),
    store.containers.all(),
    store.images.all(),
    store.layers.allLayers(),
    store.facts.find('boot id'),
  ];
  const fill = (): void => {
    store.facts.put('boot id', 'this one');
    for (let index = 0; index < 12; index++) {
      store.sandboxes.put(record(`s${index}`));
      store.containers.put({ ...record(`c${index}`), sandboxId: `s${index}` });
      store.images.put({ id: `sha256:${index}`, sizeBytes: 1, createdAtUs: 1 });
      store.layers.putLayer(layer(`sha256:l${index}`));
    }
    store.containers.delete('c3');
    store.sandboxes.delete('s3');
    store.images.delete('sha256:4');
    store.layers.deleteLayer('sha256:l5');
  };
  const asides = (): string[] => readdirSync(root).filter((name) => name.includes('.damaged-'));

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-copies-root-'));
    state = mkdtempSync(join(tmpdir(), 'berth-copies-state-'));
    open();
    fill();
  });
  afterEach(() => {
    store.close();
    for (const folder of [root, state]) rmSync(folder, { recursive: true });
  });

  const until = async (holds: () => boolean): Promise<void> => {
    for (let look = 0; look < 6000 && !holds(); look++) await new Promise((resolve) => setTimeout(resolve, 10));
    assert.ok(holds());
  };
  const lose = (): void => {
    for (const end of ['', '-wal', '-shm']) rmSync(file() + end, { force: true });
  };

  test('a database that is gone is made again from them, and says so', () => {
    const before = all();
    store.close();
    lose();
    open();
    assert.deepEqual(all(), before);
    assert.match(store.mended[0] ?? '', /was not there/);
    assert.ok(store.mended.includes('11 sandboxes are restored from their copies'), store.mended.join('\n'));
    store.close();
    open();
    assert.deepEqual([store.mended, all()], [[], before]);
  });

  test('they are written while the store is used, and those of rows that are gone go', async () => {
    const names = (place: string): string[] => readdirSync(join(state, 'records', place)).sort();
    await until(
      () => existsSync(join(root, 'records/images')) && readdirSync(join(root, 'records/images')).length === 11,
    );
    assert.deepEqual(names('containers'), store.containers.keys().sort());
    assert.deepEqual(readdirSync(join(root, 'records/images')).length, 11);
    store.containers.delete('c1');
    await until(() => !existsSync(join(state, 'records/containers/c1')));
    assert.deepEqual(names('containers'), store.containers.keys().sort());
  });

  test('they are written also while rows never stop changing', async () => {
    await until(() => existsSync(join(root, 'records/images')));
    let changes = 0;
    const changing = setInterval(() => {
      changes += 1;
      store.images.put({ id: 'sha256:busy', sizeBytes: changes, createdAtUs: 1 });
    }, 10);
    try {
      await until(() => readdirSync(join(root, 'records/images')).some((name) => name.includes('busy')));
    } finally {
      clearInterval(changing);
    }
  });

  suite('one changed bit costs no record, or is told', () => {
    const flip = (sound: Buffer, before: unknown, at: number, bit: number): void => {
      const bytes = Buffer.from(sound);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
      writeFileSync(file(), bytes);
      open();
      try {
        assert.deepEqual(all(), before, `${at} ${bit}: ${store.mended.join('\n')}`);
      } finally {
        store.close();
      }
      for (const name of asides()) rmSync(join(root, name));
    };
    const placesOf = (sound: Buffer, word: string): number[] => {
      const places: number[] = [];
      for (let at = sound.indexOf(word); at >= 0; at = sound.indexOf(word, at + 1)) places.push(at);
      return places;
    };

    test('wherever it is', () => {
      const before = all();
      store.close();
      const sound = readFileSync(file());
      // What is reserved is empty: a bit in it harms nobody.
      const used = Array.from({ length: sound.length / 4096 }, (_, page) => page * 4096).filter((start) =>
        sound.subarray(start, start + 4096).some((byte) => byte !== 0),
      );
      const place = fc.record({ page: fc.constantFrom(...used), at: fc.nat(4095), bit: fc.nat(7) });
      for (let index = 0; index < 25; index++) flip(sound, before, index * 4 + 2, index % 8);
      fc.assert(
        fc.property(place, ({ page, at, bit }) => flip(sound, before, page + at, bit)),
        { numRuns: RUNS },
      );
      open();
    });

    // SQLite checks pages and indexes: none of these.
    const unseen = {
      'how a table is made': 'REFERENCES "sandboxes"',
      'a key': 'sha256:9',
      'a layer': 'sha256:l7',
      'a fact': 'this one',
    };
    for (const [what, word] of Object.entries(unseen)) {
      test(`in ${what}`, () => {
        const before = all();
        store.close();
        const sound = readFileSync(file());
        const places = placesOf(sound, word);
        assert.ok(places.length > 0);
        for (const place of places)
          for (let at = place - 4; at < place + word.length + 4; at++) flip(sound, before, at, at % 8);
        open();
      });
    }
  });

  test('a database that was cut is kept aside, and nothing is lost', () => {
    const before = all();
    for (const length of [0, 1, 100, 4096, 3 * 4096 + 17]) {
      store.close();
      truncateSync(file(), length);
      open();
      assert.deepEqual(all(), before, `cut to ${length}`);
      // What is shorter than a header is empty to SQLite.
      assert.equal(asides().length, length < 100 ? 0 : 1, `cut to ${length}`);
      for (const name of asides()) rmSync(join(root, name));
    }
  });

  test('a body that was changed is put back; one without a copy is dropped', () => {
    const before = all();
    store.close();
    const shell = (sql: string): void => {
      const db = new Database(file());
      db.exec(sql);
      db.close();
    };
    const change = "UPDATE sandboxes SET body = replace(body, 'xxx', 'xyx') WHERE id IN ('s1', 's2')";
    shell(change);
    open();
    assert.deepEqual(all(), before);
    assert.ok(store.mended.includes('sandboxes s1 is restored from its copy'), store.mended.join('\n'));
    store.close();
    shell(change);
    rmSync(join(state, 'records/sandboxes/s1'));
    writeFileSync(join(state, 'records/sandboxes/s2'), '00000000\n{"id":"s2"}');
    open();
    assert.deepEqual(
      store.sandboxes.keys().filter((id) => id === 's1' || id === 's2'),
      [],
    );
    assert.match(
      store.mended.join('\n'),
      /sandboxes s2 cannot be restored from its copy: .*records\/sandboxes\/s2 is damaged/,
    );
    assert.deepEqual(
      store.containers.keys().filter((id) => id === 'c1' || id === 'c2'),
      [],
      'without their sandbox',
    );
  });

  test('pods of another root folder, or of a newer berthd, are not taken', () => {
    store.close();
    const other = mkdtempSync(join(tmpdir(), 'berth-copies-other-'));
    try {
      store = Store.open(other, systemClock, state);
      assert.deepEqual([store.sandboxes.all(), store.images.all(), store.mended], [[], [], []]);
      store.close();
    } finally {
      rmSync(other, { recursive: true });
    }
    open();
    store.facts.put('schema', '99');
    store.close();
    lose();
    open();
    assert.deepEqual([store.sandboxes.keys(), store.images.keys().length], [[], 11]);
  });
});
