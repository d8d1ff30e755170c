import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { type Config, loadConfig } from '../config/load-config.ts';
import { ConfigReloader } from './config-reloader.ts';

suite('reloading', { timeout: 120_000 }, () => {
  let folder: string;
  let file: string;
  let reloader: ConfigReloader;
  let applied: Config[];
  let ends: string[];
  let next: PromiseWithResolvers<void>;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-reload-'));
    file = join(folder, 'berth.toml');
    writeFileSync(file, '');
    [applied, ends, next] = [[], [], Promise.withResolvers()];
    reloader = new ConfigReloader({
      file,
      read: () => loadConfig({ file }),
      apply: async (config) => {
        applied.push(config);
        return { live: [], waiting: [] };
      },
      onEnd: (problem) => {
        ends.push(problem);
        next.resolve();
        next = Promise.withResolvers();
      },
      announce: async (work) => await work(),
      log: silentLogger,
      settleMs: 5,
    });
  });
  afterEach(async () => {
    await reloader.close();
    rmSync(folder, { recursive: true });
  });

  test('a file or drop-in that changes is read, one that says the same is not told of', async () => {
    reloader.watch(loadConfig({ file }));
    let ended = next.promise;
    writeFileSync(file, '[log]\nlevel = "debug"\n');
    await ended;
    assert.deepEqual([applied.length, applied[0]?.log.level], [1, 'debug']);
    ended = next.promise;
    // A folder that was not there, with a file that comes right after it.
    mkdirSync(`${file}.d`);
    writeFileSync(join(`${file}.d`, '10.toml'), '[log]\nlevel = "warn"\n');
    await ended;
    assert.equal(applied.at(-1)?.log.level, 'warn');
    ended = next.promise;
    writeFileSync(file, '[log]\nlevel = "info"\n# more words\n');
    await reloader.reload();
    assert.equal(applied.at(-1)?.log.level, 'warn');
    assert.ok(ends.every((problem) => problem === ''));
  });

  test('what changed before the watch began is seen', async () => {
    const running = loadConfig({ file });
    writeFileSync(file, '[log]\nlevel = "error"\n');
    const ended = next.promise;
    reloader.watch(running);
    await ended;
    assert.equal(applied[0]?.log.level, 'error');
  });

  test('a broken file is told with its line and applied by nobody; the next good one is', async () => {
    reloader.watch(loadConfig({ file }));
    let ended = next.promise;
    writeFileSync(file, '[log]\nlevel = 7\n');
    await ended;
    assert.match(ends[0] ?? '', /berth\.toml:2: log\.level/);
    assert.equal(applied.length, 0);
    ended = next.promise;
    writeFileSync(file, '[log]\nlevel = "debug"\n');
    await ended;
    assert.deepEqual([ends.at(-1), applied.length], ['', 1]);
  });
});
