import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { ExitWatch, type SeenExit } from './exit-watch.ts';

const id = 'a'.repeat(64);
const other = 'b'.repeat(64);

describe('ExitWatch', () => {
  let folder = '';
  let watch = new ExitWatch('', silentLogger);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-exits-'));
    watch = new ExitWatch(join(folder, 'exits'), silentLogger);
  });
  afterEach(() => {
    watch.close();
    rmSync(folder, { recursive: true });
  });

  // As the monitor does it: under another name first.
  const end = (name: string, text: string): void => {
    const file = join(folder, 'exits', name);
    writeFileSync(`${file}.XYZ123`, text);
    renameSync(`${file}.XYZ123`, file);
  };
  const seen = async (): Promise<[string, SeenExit]> =>
    await new Promise((resolve) => (watch.onExit = (...exit) => resolve(exit)));

  it('hears of an exit at once', async () => {
    const exit = seen();
    watch.start();
    end(id, '137');
    const [name, { exitCode, finishedAtUs }] = await exit;
    assert.deepEqual([name, exitCode], [id, 137]);
    assert.ok(Math.abs(finishedAtUs / 1000 - Date.now()) < 5000);
  });

  it('reports what ended while nobody watched, with the time of its end', async () => {
    watch.start();
    watch.close();
    end(id, '0');
    utimesSync(join(folder, 'exits', id), 1_700_000_000.25, 1_700_000_000.25);
    const exit = seen();
    watch.start();
    assert.deepEqual(await exit, [id, { exitCode: 0, finishedAtUs: 1_700_000_000_250_000 }]);
  });

  it('goes on after garbage, and after a listener that fails', async () => {
    watch.start();
    end('c'.repeat(64), 'garbage');
    assert.equal(watch.read('c'.repeat(64)), undefined);
    const heard: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    watch.onExit = (name) => {
      heard.push(name);
      if (name === id) throw new Error('listener');
      resolve();
    };
    end(id, '1');
    end(other, '2');
    await promise;
    assert.deepEqual(heard, [id, other]);
  });

  it('reads, and forgets', () => {
    watch.remove(id);
    watch.start();
    assert.equal(watch.read(id), undefined);
    end(id, '-1');
    assert.equal(watch.read(id)?.exitCode, -1);
    writeFileSync(join(folder, 'exits', `${id}.VBQLZ3`), '');
    watch.remove(id);
    watch.remove(id);
    assert.deepEqual(readdirSync(join(folder, 'exits')), []);
  });
});
