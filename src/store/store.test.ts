import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import Database from 'better-sqlite3';
import fc from 'fast-check';

import { systemClock } from '../base/clock.ts';
import { type Journal, runSteps } from '../base/steps.ts';
import { Store, type StoredTypes } from './store.ts';

const record = (id: string, state = 'ready') => ({ id, name: `name-${id}`, state, createdAtUs: 1, sandboxId: 's' });

suite('Store', () => {
  let root: string;
  let store: Store<StoredTypes>;

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-store-'));
    store = Store.open(root, systemClock);
  });
  afterEach(() => {
    store.close();
    rmSync(root, { recursive: true });
  });

  const reopen = (): void => {
    store.close();
    store = Store.open(root, systemClock);
  };

  test('keeps records over a restart, whole', () => {
    const sandbox = { ...record('a'), ips: ['10.0.0.1'], spec: { labels: { "it's": '"quoted"\n' } } };
    store.sandboxes.put(sandbox);
    store.containers.put(record('c'));
    reopen();
    assert.deepEqual(store.sandboxes.all(), [sandbox]);
    assert.deepEqual(store.containers.all(), [record('c')]);
  });

  test('is what a map would be, whatever is put and deleted, with restarts in between', () => {
    const operation = fc.oneof(
      fc.record({ kind: fc.constant('put'), id: fc.constantFrom('a', 'b', 'c'), state: fc.string() }),
      fc.record({ kind: fc.constant('delete'), id: fc.constantFrom('a', 'b', 'c'), state: fc.constant('') }),
      fc.constant({ kind: 'reopen', id: '', state: '' }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        for (const { id } of store.sandboxes.all()) store.sandboxes.delete(id);
        const model = new Map<string, unknown>();
        for (const { kind, id, state } of operations) {
          if (kind === 'put') {
            store.sandboxes.put(record(id, state));
            model.set(id, record(id, state));
          } else if (kind === 'delete') {
            store.sandboxes.delete(id);
            model.delete(id);
          } else reopen();
        }
        assert.deepEqual(new Map(store.sandboxes.all().map((found) => [found.id, found])), model);
      }),
      { numRuns: 30 },
    );
  });

  test('two records cannot have one name', () => {
    store.sandboxes.put(record('a'));
    assert.throws(() => store.sandboxes.put({ ...record('b'), name: 'name-a' }), /write sandboxes b/);
  });

  test('a transaction that fails has written nothing', () => {
    assert.throws(() =>
      store.transaction(() => {
        store.sandboxes.put(record('a'));
        throw new Error('changed my mind');
      }),
    );
    assert.deepEqual(store.sandboxes.all(), []);
  });

  test('the journal knows what a daemon that died had begun, and forgets what is through', async () => {
    const never = new AbortController().signal;
    const journal = (subject: string): Journal => store.journal.open('Run', subject);
    const quiet = [
      { name: 'one', run() {} },
      { name: 'two', run() {} },
    ];
    await runSteps(quiet, null, never, journal('through'));
    store.journal.finish('Run', 'through');
    const failing = [
      { name: 'one', run() {} },
      {
        name: 'two',
        run() {
          throw new Error('x');
        },
      },
    ];
    await assert.rejects(runSteps(failing, null, never, journal('undone')));
    const dying = journal('died');
    dying.begin('one');
    dying.end('one', 'ok', 1.5);
    dying.begin('two');
    reopen();
    assert.deepEqual(store.journal.unfinished(), [
      { pipeline: 'Run', subject: 'undone', begun: [] },
      { pipeline: 'Run', subject: 'died', begun: ['one', 'two'] },
    ]);
    assert.deepEqual(
      store.journal.times('died').map(({ step, outcome, durationMs }) => [step, outcome, durationMs]),
      [
        ['one', 'ok', 1.5],
        ['two', 'running', 0],
      ],
    );
    store.journal.forget('died');
    assert.deepEqual(store.journal.times('died'), []);
    assert.deepEqual(
      store.journal.unfinished().map(({ subject }) => subject),
      ['undone'],
    );
  });

  test('images and layers', () => {
    const image = { id: 'sha256:1', sizeBytes: 10, createdAtUs: 5, tags: ['a:b'] };
    store.images.put(image);
    store.images.put({ ...image, sizeBytes: 11 });
    store.layers.putLayer({ diffId: 'sha256:2', sizeBytes: 1, inodes: 2, createdAtUs: 3 });
    reopen();
    assert.deepEqual(store.images.all(), [{ ...image, sizeBytes: 11 }]);
    assert.deepEqual(store.layers.allLayers(), [{ diffId: 'sha256:2', sizeBytes: 1, inodes: 2, createdAtUs: 3 }]);
    store.images.delete('sha256:1');
    store.layers.deleteLayer('sha256:2');
    assert.deepEqual([store.images.all(), store.layers.allLayers()], [[], []]);
  });

  test('only root may read the files', () => {
    for (const name of ['berth.db', 'berthd.lock']) assert.equal(statSync(join(root, name)).mode & 0o777, 0o600, name);
  });

  test('a root folder that is held names its holder, until that one is gone', () => {
    const script = `
      const { Store } = await import(${JSON.stringify(fileURLToPath(new URL('./store.ts', import.meta.url)))});
      try { Store.open(process.argv[1], { nowUs: () => 0 }).close(); console.log('opened'); }
      catch (err) { console.log(err.kind, err.message); }`;
    const other = (): string =>
      execFileSync(process.execPath, ['--input-type=module', '-e', script, root], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
    assert.match(
      other(),
      new RegExp(`^precondition root folder ${root} is in use by the berthd with pid ${process.pid}:`),
    );
    store.close();
    assert.match(other(), /^opened/);
    store = Store.open(root, systemClock);
  });

  test('a database of a newer berthd is refused', () => {
    store.close();
    const db = new Database(join(root, 'berth.db'));
    db.pragma('user_version = 99');
    db.close();
    assert.throws(() => Store.open(root, systemClock), { kind: 'precondition', message: /schema 99/ });
    const again = new Database(join(root, 'berth.db'));
    again.pragma('user_version = 1');
    again.close();
    store = Store.open(root, systemClock);
  });
});
