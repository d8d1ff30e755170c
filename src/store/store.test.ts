import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import Database from 'better-sqlite3';
import fc from 'fast-check';

import { systemClock } from '../base/clock.ts';
import { kindOf } from '../base/errors.ts';
import { FaultPoints } from '../base/fault-points.ts';
import { type Journal, runSteps } from '../base/steps.ts';
import { migrate, SCHEMA } from './migrations.ts';
import { Store, type StoredTypes } from './store.ts';
import { storeError } from './store-error.ts';

const record = (id: string, state = 'ready') => ({ id, name: `name-${id}`, state, createdAtUs: 1, sandboxId: 's' });

/** A program that opens the root folder in its first argument, then does `next`. */
const openScript = (next: string): string => `
  const { Store } = await import(${JSON.stringify(fileURLToPath(new URL('./store.ts', import.meta.url)))});
  try {
    const store = Store.open(process.argv[1], { nowUs: () => 0 });
    store.sandboxes.put({ id: 'written', name: 'written', state: 'ready', createdAtUs: 1 });
    console.log('opened');
    ${next};
    store.close();
  } catch (err) { console.log(err.kind, err.message); }`;

const runOther = (root: string): string =>
  execFileSync(process.execPath, ['--input-type=module', '-e', openScript(''), root], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });

const openFiles = (): string[] =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      // The one that lists the folder is gone by now.
      return [];
    }
  });

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
    store.containers.put({ ...record('c'), sandboxId: 'a' });
    reopen();
    assert.deepEqual(store.sandboxes.all(), [sandbox]);
    assert.deepEqual(store.containers.all(), [{ ...record('c'), sandboxId: 'a' }]);
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
    dying.begin('one', true);
    dying.end('one', 'ok', 1.5);
    dying.begin('two', false);
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

  test('a step that may wait is noted with the next one that may not; the first never waits', () => {
    const journal = store.journal.open('Run', 'died');
    for (const [step, mayWait] of [
      ['one', true],
      ['two', true],
      ['three', false],
      ['four', true],
    ] as const)
      journal.begin(step, mayWait);
    reopen();
    assert.deepEqual(store.journal.unfinished(), [
      { pipeline: 'Run', subject: 'died', begun: ['one', 'two', 'three'] },
    ]);
  });

  test('a journal that was not forgotten with its pod goes with the next start', () => {
    store.sandboxes.put(record('a'));
    for (const id of ['a', 'gone', 'begun']) {
      const journal = store.journal.open('Run', id);
      journal.begin('first', false);
      journal.end('first', 'ok', 1);
      if (id !== 'begun') store.journal.finish('Run', id);
    }
    reopen();
    const kept = ['a', 'gone', 'begun'].map((id) => store.journal.times(id).length);
    assert.deepEqual(kept, [1, 0, 1]);
  });

  test('a full disk keeps no daemon from its start, whatever could be forgotten', () => {
    const journal = store.journal.open('Run', 'gone');
    journal.begin('first', false);
    journal.end('first', 'ok', 1);
    store.journal.finish('Run', 'gone');
    store.close();
    const faults = mkdtempSync(join(tmpdir(), 'berth-store-faults-'));
    try {
      const fault = { place: 'database delete steps', phase: 'before', action: 'error', skip: 0, error: 'SQLITE_FULL' };
      writeFileSync(join(faults, 'full.armed'), JSON.stringify(fault));
      store = Store.open(root, systemClock, undefined, new FaultPoints(faults));
      assert.ok(readdirSync(faults).includes('full.fired'));
      assert.equal(store.journal.times('gone').length, 1);
    } finally {
      rmSync(faults, { recursive: true });
    }
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

  test('a pipeline that is opened again starts anew', () => {
    const first = store.journal.open('Stop', 'a');
    for (const step of ['one', 'two']) {
      first.begin(step, false);
      first.end(step, 'ok', 1);
    }
    store.journal.finish('Stop', 'a');
    store.journal.open('Stop', 'a').begin('one', false);
    assert.deepEqual(store.journal.unfinished(), [{ pipeline: 'Stop', subject: 'a', begun: ['one'] }]);
    assert.deepEqual(
      store.journal.times('a').map(({ step, outcome }) => [step, outcome]),
      [['one', 'running']],
    );
  });

  test('only root may read the files', () => {
    store.sandboxes.put(record('a'));
    const modes = readdirSync(root).map((name) => [name, (statSync(join(root, name)).mode & 0o777).toString(8)]);
    const names = ['berth.db', 'berth.db-shm', 'berth.db-wal', 'berthd.lock', 'berthd.pid'];
    assert.deepEqual(
      modes.sort(),
      names.map((name) => [name, '600']),
    );
    const made = join(root, 'made', 'here');
    Store.open(made, systemClock).close();
    assert.equal(statSync(made).mode & 0o777, 0o711);
  });

  test('a root folder that is held names its holder, until that one is gone', () => {
    const held = new RegExp(`^precondition folder ${root} is in use by the berthd with pid ${process.pid}:`);
    assert.match(runOther(root), held);
    assert.match(runOther(root), held, 'the one that was refused has changed nothing');
    store.close();
    assert.match(runOther(root), /^opened/);
    store = Store.open(root, systemClock);
  });

  test('kill -9 lets go of the root folder and keeps what was written', async () => {
    store.close();
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', openScript('await new Promise(() => setInterval(() => {}, 60_000))'), root],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const keepAlive = once(child, 'exit');
    await once(child.stdout, 'data');
    assert.throws(() => Store.open(root, systemClock), {
      kind: 'precondition',
      message: new RegExp(`pid ${child.pid}:`),
    });
    child.kill('SIGKILL');
    await keepAlive;
    store = Store.open(root, systemClock);
    assert.deepEqual(
      store.sandboxes.all().map(({ id }) => id),
      ['written'],
    );
    assert.equal(readFileSync(join(root, 'berthd.pid'), 'utf8'), `${process.pid}\n`);
  });

  test('a lock file that is none is named, and nothing stays open or held', () => {
    const other = join(root, 'other');
    const lock = join(other, 'berthd.lock');
    mkdirSync(other);
    writeFileSync(lock, 'not a database '.repeat(100));
    assert.throws(
      () => Store.open(other, systemClock),
      (err) => err instanceof Error && err.message.includes(lock) && kindOf(err) === 'internal',
    );
    assert.deepEqual(
      openFiles().filter((path) => path.startsWith(other)),
      [],
    );
    rmSync(lock);
    Store.open(other, systemClock).close();
  });

  const shell = (sql: string): void => {
    const db = new Database(join(root, 'berth.db'));
    db.pragma('ignore_check_constraints = ON');
    db.pragma('foreign_keys = OFF');
    db.exec(sql);
    db.close();
  };

  test('a record that cannot be read is dropped, with what hangs on it, and the others stay', () => {
    for (const id of ['a', 'b']) {
      store.images.put({ id: `sha256:${id}`, sizeBytes: 1, createdAtUs: 1 });
      store.sandboxes.put(record(id));
      store.containers.put({ ...record(`in-${id}`), sandboxId: id });
    }
    store.containers.put({ ...record('other-in-b'), sandboxId: 'b' });
    shell(`UPDATE images SET body = '{"id":' WHERE id = 'sha256:a'; UPDATE sandboxes SET body = '{"id":"b"}'
      WHERE id = 'a'; UPDATE containers SET body = '"other-in-b"' WHERE id = 'other-in-b'`);
    reopen();
    const ids = (records: { id: string }[]) => records.map(({ id }) => id);
    assert.deepEqual(
      [ids(store.images.all()), ids(store.sandboxes.all()), ids(store.containers.all())],
      [['sha256:b'], ['b'], ['in-b']],
    );
    const named = ['sandboxes a', 'containers other-in-b', 'images sha256:a', 'containers in-a'];
    for (const [index, name] of named.entries()) assert.ok(store.mended[index]?.startsWith(name), store.mended[index]);
    reopen();
    assert.deepEqual(store.mended, []);
  });

  test('a container cannot outlive its sandbox', () => {
    store.sandboxes.put(record('s'));
    store.containers.put(record('c'));
    assert.throws(() => store.sandboxes.delete('s'), /delete sandboxes s/);
    assert.throws(() => store.containers.put({ ...record('d'), sandboxId: 'gone' }), /write containers d/);
    store.sandboxes.put(record('s', 'stopped'));
    store.containers.delete('c');
    store.sandboxes.delete('s');
  });

  test('the containers of an older schema are taken over, except those without a sandbox', () => {
    for (const id of ['s', 't']) store.sandboxes.put(record(id));
    store.containers.put(record('c'));
    store.close();
    shell(`DROP TABLE facts; ALTER TABLE sandboxes DROP COLUMN body_sum; ALTER TABLE images DROP COLUMN body_sum;
      ALTER TABLE layers DROP COLUMN row_sum;
      ALTER TABLE containers RENAME TO newer;
      CREATE TABLE containers (id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL, created_at_us INTEGER NOT NULL, body TEXT NOT NULL CHECK (json_valid(body)))
        STRICT, WITHOUT ROWID;
      INSERT INTO containers (id, sandbox_id, name, state, created_at_us, body)
        SELECT id, sandbox_id, name, state, created_at_us, body FROM newer;
      INSERT INTO containers VALUES ('d', 'gone', 'name-d', 'ready', 1, '{"id":"d"}');
      DROP TABLE newer; CREATE INDEX containers_by_sandbox ON containers (sandbox_id);
      CREATE INDEX pipelines_unfinished ON pipelines (finished) WHERE finished = 0; PRAGMA user_version = 1`);
    store = Store.open(root, systemClock);
    assert.deepEqual(store.containers.all(), [record('c')]);
    assert.throws(() => store.sandboxes.delete('s'));
    store.sandboxes.delete('t');
  });

  suite('a database of schema 3', () => {
    const toSchema3 = (more = ''): void => {
      store.close();
      const columns = (rule: string) => `name TEXT ${rule} UNIQUE, state TEXT NOT NULL, created_at_us INTEGER NOT NULL,
        body TEXT NOT NULL CHECK (json_valid(body)), body_sum TEXT`;
      shell(`ALTER TABLE containers RENAME TO new_containers; ALTER TABLE sandboxes RENAME TO new_sandboxes;
        CREATE TABLE sandboxes (id TEXT PRIMARY KEY, ${columns(more.includes('NULL') ? '' : 'NOT NULL')})
          STRICT, WITHOUT ROWID;
        CREATE TABLE containers (id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
          ${columns('NOT NULL')}) STRICT, WITHOUT ROWID;
        INSERT INTO sandboxes SELECT * FROM new_sandboxes;
        INSERT INTO containers SELECT * FROM new_containers;
        DROP TABLE new_containers; DROP TABLE new_sandboxes;
        CREATE INDEX containers_by_sandbox ON containers (sandbox_id);
        CREATE INDEX pipelines_unfinished ON pipelines (finished) WHERE finished = 0;
        ALTER TABLE layers DROP COLUMN row_sum; ALTER TABLE facts DROP COLUMN row_sum;
        DELETE FROM facts WHERE name = 'tables';
        PRAGMA user_version = 3; UPDATE facts SET value = '3' WHERE name = 'schema'; ${more}`);
    };

    test('its records are taken over, and what cannot be read is told', () => {
      for (const id of ['s', 't', 'bad']) store.sandboxes.put(record(id));
      store.containers.put(record('c'));
      store.containers.put({ ...record('lost'), sandboxId: 't' });
      store.journal.open('run', 's').begin('step', false);
      toSchema3(`UPDATE sandboxes SET body = '{"id":' WHERE id = 'bad';
        UPDATE containers SET sandbox_id = 'gone' WHERE id = 'lost'`);
      store = Store.open(root, systemClock);
      assert.deepEqual([store.sandboxes.all(), store.containers.all()], [[record('s'), record('t')], [record('c')]]);
      assert.match(store.mended.join(), /^sandboxes bad is dropped.*containers lost is dropped/);
      assert.deepEqual(
        store.journal.unfinished().map(({ subject }) => subject),
        ['s'],
      );
      assert.throws(() => store.sandboxes.delete('s'));
      assert.throws(() => store.containers.put({ ...record('d'), sandboxId: 'gone' }));
      reopen();
      assert.deepEqual(store.mended, []);
    });

    test('a row that lacks a column keeps no daemon from its start', () => {
      for (const id of ['s', 't']) store.sandboxes.put(record(id));
      toSchema3(`UPDATE sandboxes SET name = NULL WHERE id = 's'`);
      store = Store.open(root, systemClock);
      assert.deepEqual(store.sandboxes.all(), [record('s'), record('t')]);
    });

    test('a daemon may die right after it has migrated it', () => {
      store.sandboxes.put(record('s'));
      toSchema3();
      const db = new Database(join(root, 'berth.db'));
      migrate(db, 'berth.db');
      db.close();
      store = Store.open(root, systemClock);
      assert.deepEqual([store.sandboxes.all(), store.mended], [[record('s')], []]);
    });

    test('what its containers kept to themselves does not stay in pages that are free', () => {
      store.sandboxes.put(record('s'));
      const secrets = Array.from({ length: 40 }, (_, index) => `SECRET-${index}-${'x'.repeat(2000)}`);
      for (const [index, secret] of secrets.entries())
        store.containers.put({ ...record(`c${index}`), sandboxId: 's', ...{ secret } });
      toSchema3();
      store = Store.open(root, systemClock);
      for (const { id } of store.containers.all()) store.containers.delete(id);
      store.close();
      const bytes = readFileSync(join(root, 'berth.db'));
      assert.ok(!bytes.includes('SECRET-'));
      store = Store.open(root, systemClock);
    });
  });

  test('facts are kept over a restart', () => {
    assert.equal(store.facts.find('boot id'), undefined);
    store.facts.put('boot id', 'one');
    store.facts.put('boot id', 'two');
    reopen();
    assert.equal(store.facts.find('boot id'), 'two');
  });

  test('a damaged database is kept aside and begun anew, whatever has happened to it', () => {
    const file = join(root, 'berth.db');
    for (let index = 0; index < 300; index++)
      store.sandboxes.put({ ...record(`id-${index}`), ...{ x: 'x'.repeat(200) } });
    store.close();
    const sound = readFileSync(file);
    const flip = (from: number, length: number): Buffer => {
      const bytes = Buffer.from(sound);
      for (let at = from; at < from + length; at++) bytes[at] = (bytes[at] ?? 0) ^ 0x55;
      return bytes;
    };
    const damaged = {
      'cut to a part': sound.subarray(0, 3 * 4096 + 100),
      'no database': Buffer.from('not a database '.repeat(1000)),
      'pages flipped': flip(4096, 20_000),
      'schema flipped': flip(100, 200),
    };
    for (const [what, bytes] of Object.entries(damaged)) {
      writeFileSync(file, bytes);
      store = Store.open(root, systemClock);
      const [aside = ''] = readdirSync(root).filter((name) => name.startsWith('berth.db.damaged-'));
      assert.match(store.mended[0] ?? '', new RegExp(`^database ${file} is damaged, kept as .*${aside}`), what);
      assert.deepEqual(readFileSync(join(root, aside)), bytes, what);
      assert.deepEqual(store.sandboxes.all(), [], what);
      store.sandboxes.put(record('a'));
      store.close();
      rmSync(join(root, aside));
    }
    store = Store.open(root, systemClock);
    assert.deepEqual(store.mended, []);
    assert.equal(store.sandboxes.all().length, 1);
  });

  test('a shell that writes does not stop the daemon for long, which says so', () => {
    const shell = new Database(join(root, 'berth.db'));
    shell.exec('BEGIN IMMEDIATE');
    const startedMs = performance.now();
    const busy = { kind: 'unavailable', message: 'write sandboxes a' };
    assert.throws(() => store.sandboxes.put(record('a')), busy);
    assert.throws(() => store.transaction(() => store.sandboxes.put(record('a'))), { kind: 'unavailable' });
    assert.throws(() => store.journal.open('Run', 'a').begin('one', false), {
      kind: 'unavailable',
      message: /journal of Run on a/,
    });
    assert.ok(performance.now() - startedMs < 10_000);
    shell.close();
    store.sandboxes.put(record('a'));
  });

  test('after a kill the room that was reserved is still there, and is not made again', () => {
    store.sandboxes.put(record('a'));
    // What is on disk while it is open is what a kill leaves.
    const killed = mkdtempSync(join(tmpdir(), 'berth-store-killed-'));
    try {
      for (const end of ['', '-wal']) copyFileSync(join(root, `berth.db${end}`), join(killed, `berth.db${end}`));
      const sizes = (): number[] => ['', '-wal'].map((end) => statSync(join(killed, `berth.db${end}`)).size);
      const before = sizes();
      assert.ok(Math.min(...before) > 6 * 2 ** 20, before.join());
      utimesSync(join(killed, 'berth.db'), 1, 1);
      const next = Store.open(killed, systemClock);
      assert.deepEqual(sizes(), before);
      assert.equal(statSync(join(killed, 'berth.db')).mtimeMs, 1_000, 'nothing was moved into it');
      assert.deepEqual(next.sandboxes.all(), [record('a')]);
      next.close();
    } finally {
      rmSync(killed, { recursive: true });
    }
  });

  test('after a stop only the log is made longer, by what is no record, and killed then it is read as before', () => {
    store.sandboxes.put(record('a'));
    store.close();
    utimesSync(join(root, 'berth.db'), 1, 1);
    store = Store.open(root, systemClock);
    assert.equal(statSync(join(root, 'berth.db')).mtimeMs, 1_000, 'the database is not written to');
    const log = join(root, 'berth.db-wal');
    const { size } = statSync(log);
    assert.ok(size >= 8 * 2 ** 20);
    const killed = (): unknown[] => {
      const folder = mkdtempSync(join(tmpdir(), 'berth-store-killed-'));
      try {
        for (const end of ['', '-wal']) copyFileSync(join(root, `berth.db${end}`), join(folder, `berth.db${end}`));
        const next = Store.open(folder, systemClock);
        assert.deepEqual(next.mended, []);
        const records = next.sandboxes.all();
        next.close();
        return records;
      } finally {
        rmSync(folder, { recursive: true });
      }
    };
    assert.deepEqual(killed(), [record('a')]);
    store.sandboxes.put(record('b'));
    assert.deepEqual(killed(), [record('a'), record('b')]);
    assert.equal(statSync(log).size, size, 'what is written takes the room that is there');
  });

  test('a full disk is told apart from a bug', () => {
    const full = storeError('write', new Database.SqliteError('database or disk is full', 'SQLITE_FULL'));
    const busy = storeError('write', new Database.SqliteError('locked', 'SQLITE_BUSY_SNAPSHOT'));
    const bug = storeError('write', new Database.SqliteError('no such table', 'SQLITE_ERROR'));
    assert.deepEqual([full, busy, bug].map(kindOf), ['exhausted', 'unavailable', 'internal']);
  });

  test('a database of a newer berthd is refused', () => {
    store.close();
    shell("PRAGMA user_version = 99; UPDATE facts SET value = '99' WHERE name = 'schema'");
    assert.throws(() => Store.open(root, systemClock), { kind: 'precondition', message: /schema 99/ });
    shell(`PRAGMA user_version = ${SCHEMA}; UPDATE facts SET value = '${SCHEMA}' WHERE name = 'schema'`);
    store = Store.open(root, systemClock);
    assert.deepEqual(store.mended, []);
  });
});
