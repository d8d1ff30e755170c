import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { createSocketPair } from '../sys/pipe.ts';
import { createLogger, type DaemonLogger } from './logger.ts';

/** What a logger writes to a file. */
function written(format: 'auto' | 'json' | 'text', use: (log: DaemonLogger) => void): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'berth-log-'));
  const fd = openSync(join(folder, 'log'), 'w');
  try {
    use(createLogger('info', format, fd));
    return readFileSync(join(folder, 'log'), 'utf8').trimEnd().split('\n');
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}

test('each line is JSON with its level, time and fields; the level can be changed', () => {
  const lines = written('auto', (log) => {
    log.debug({}, 'too little');
    log.info({ rpc: 'Version' }, 'rpc done');
    log.setLevel('debug');
    log.child({ pod: 'web' }).debug({}, 'now');
  }).map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    lines.map(({ level, msg, rpc, pod }) => [level, msg, rpc ?? pod]),
    [
      ['info', 'rpc done', 'Version'],
      ['debug', 'now', 'web'],
    ],
  );
  assert.ok(lines.every(({ time }) => Math.abs(Date.parse(String(time)) - Date.now()) < 60_000));
});

test('a person reads text', () => {
  const [line = ''] = written('text', (log) => log.warn({ name: 'x\ny', list: [1] }, 'watch out'));
  assert.match(line, /^\d\d:\d\d:\d\d\.\d{3} WARN {2}watch out {2}name=x\\u000ay list=\[1\]$/);
});

for (const [format, first, last] of [
  ['auto', '<4>watch out  name=x\\u000ay', '<3>worse'],
  ['json', '<4>{"level":"warn","time":', '<3>{"level":"error","time":'],
] as const) {
  test(`lines to the journal have its priorities, in format ${format}`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'berth-log-'));
    const fd = openSync(join(folder, 'log'), 'w');
    try {
      const { dev, ino } = fstatSync(fd);
      const log = createLogger('info', format, fd, `${dev}:${ino}`);
      log.warn({ name: 'x\ny' }, 'watch out');
      log.error({}, 'worse');
      const lines = readFileSync(join(folder, 'log'), 'utf8').trimEnd().split('\n');
      assert.deepEqual(
        lines.map((line, index) => line.startsWith(index === 0 ? first : last)),
        [true, true],
        lines.join('\n'),
      );
    } finally {
      closeSync(fd);
      rmSync(folder, { recursive: true });
    }
  });
}

test('a journald that stands still costs lines, and nobody waits for it', () => {
  const { ownFd, otherFd } = createSocketPair();
  try {
    const { dev, ino } = fstatSync(ownFd, { bigint: true });
    const log = createLogger('info', 'auto', ownFd, `${dev}:${ino}`);
    for (let n = 0; n < 5000; n += 1) log.info({ n }, 'a line that nobody reads');
    assert.ok(log.linesLost() > 1000, `${log.linesLost()} lines are lost`);
    const heard = Buffer.alloc(1 << 22);
    const length = readSync(otherFd, heard);
    log.warn({}, 'it reads again');
    assert.match(heard.toString('utf8', 0, length), /^<6>a line that nobody reads {2}n=0\n<6>/);
    assert.match(
      heard.toString('utf8', 0, readSync(otherFd, heard)),
      /log lines were lost.*lines=\d+\n<4>it reads again\n$/s,
    );
  } finally {
    closeSync(ownFd);
    closeSync(otherFd);
  }
});

test('a stderr that is not the one of $JOURNAL_STREAM is no journal', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-log-'));
  const fd = openSync(join(folder, 'log'), 'w');
  try {
    createLogger('info', 'auto', fd, '1:2').info({}, 'to a file');
    assert.match(readFileSync(join(folder, 'log'), 'utf8'), /^\{"level":"info"/);
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

test('what cannot be written is lost and counted, and nobody fails', () => {
  const full = openSync('/dev/full', 'w');
  try {
    const log = createLogger('info', 'json', full);
    for (let line = 0; line < 3; line++) log.info({}, 'into the void');
  } finally {
    closeSync(full);
  }
});

test('on a disk that has room again the log goes on, and says how much is missing', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-log-'));
  const script = `
    import { openSync, writeSync } from 'node:fs';
    import { createLogger } from '${new URL('./logger.ts', import.meta.url).href}';
    const log = createLogger('info', 'json', openSync('${folder}/log', 'a'));
    for (let line = 0; line < 50; line++) log.info({ line, filler: 'x'.repeat(100) }, 'line');
    const { spawnSync } = await import('node:child_process');
    spawnSync('prlimit', ['--pid', String(process.pid), '--fsize=unlimited']);
    log.info({}, 'goes on');
  `;
  try {
    // A file that may not grow stands for the disk; node ignores the signal that goes with it.
    execFileSync('sh', [
      '-c',
      'ulimit -S -f 2; exec "$@"',
      'sh',
      process.execPath,
      '--input-type=module',
      '-e',
      script,
    ]);
    const lines = readFileSync(join(folder, 'log'), 'utf8').trimEnd().split('\n');
    assert.match(lines.at(-1) ?? '', /"msg":"goes on"/);
    const [, lost] = /"lines":(\d+),"msg":"log lines were lost/.exec(lines.at(-2) ?? '') ?? [];
    const whole = lines.filter((line) => line.endsWith('"msg":"line"}')).length;
    assert.ok(whole > 0 && whole < 50 && Number(lost) === 50 - whole, lines.join('\n'));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
