import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { parseBlkio, parseCount, parseField, parseIoStat, parseLimit, parsePressure } from './stats-text.ts';

describe('parseCount and parseLimit', () => {
  it('take what the kernel writes', () => {
    assert.equal(parseCount('4096\n'), 4096);
    assert.equal(parseLimit('4096\n'), 4096);
    assert.equal(parseLimit('max\n'), Number.POSITIVE_INFINITY);
    assert.equal(parseLimit('9223372036854771712\n'), Number.POSITIVE_INFINITY);
    assert.equal(parseLimit('-1\n'), Number.POSITIVE_INFINITY);
  });

  it('know nothing of anything else', () => {
    for (const text of [undefined, '', '\n', 'max 100000\n', '-5\n', '1e9\n', '12 13\n', '0x10\n', ' 5\n']) {
      assert.equal(parseCount(text), undefined, JSON.stringify(text));
      assert.equal(parseLimit(text), undefined, JSON.stringify(text));
    }
  });
});

describe('parseField', () => {
  const text = 'cache 1\nrss 2\nrss_huge 3\ninactive_file 4\ntotal_cache 5\ntotal_inactive_file 6';

  it('finds whole keys, first and last too', () => {
    for (const [key, value] of text.split('\n').map((line) => line.split(' '))) {
      assert.equal(parseField(text, key ?? ''), Number(value), key);
    }
    assert.equal(parseField(text, 'file'), undefined);
    assert.equal(parseField(text, 'ca'), undefined);
    assert.equal(parseField(undefined, 'cache'), undefined);
    assert.equal(parseField('cache\n', 'cache'), undefined);
    assert.equal(parseField('cache -1\n', 'cache'), undefined);
  });

  it('equals a search line by line', () => {
    const key = fc.constantFrom('a', 'b', 'total_a', 'a b');
    const lines = fc.array(
      fc.oneof(
        fc.tuple(key, fc.nat()).map(([k, n]) => `${k} ${n}`),
        fc.string(),
        key,
      ),
    );
    fc.assert(
      fc.property(lines, fc.constantFrom('a', 'b', 'total_a'), (all, wanted) => {
        const content = all.map((line) => line.replaceAll('\n', '')).join('\n');
        const line = content.split('\n').find((candidate) => candidate.startsWith(`${wanted} `));
        const number = /^\d+$/.exec(line?.slice(wanted.length + 1) ?? '')?.[0];
        assert.equal(parseField(content, wanted), number === undefined ? undefined : Number(number));
      }),
    );
  });
});

describe('parsePressure', () => {
  const some = 'some avg10=1.50 avg60=0.25 avg300=0.00 total=12345678';
  const full = 'full avg10=0.50 avg60=0.00 avg300=0.00 total=345';

  it('reads both lines', () => {
    assert.deepEqual(parsePressure(`${some}\n${full}\n`), {
      some: { avg10: 1.5, avg60: 0.25, avg300: 0, totalUs: 12_345_678 },
      full: { avg10: 0.5, avg60: 0, avg300: 0, totalUs: 345 },
    });
  });

  it('takes a missing line for all tasks as zeros, as cpu.pressure was before Linux 5.13', () => {
    assert.deepEqual(parsePressure(`${some}\n`)?.full, { avg10: 0, avg60: 0, avg300: 0, totalUs: 0 });
  });

  it('knows nothing of what is cut or empty', () => {
    for (const text of [undefined, '', full, some.slice(0, 20), 'some avg10=x avg60=0 avg300=0 total=1'])
      assert.equal(parsePressure(text), undefined);
  });
});

describe('devices', () => {
  it('of v2: one entry each, whatever fields the kernel adds', () => {
    const text = [
      '8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0',
      '8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021 cost.usage=5',
      '7:0 ',
      'broken',
      '253:1 rbytes=5',
    ].join('\n');
    assert.deepEqual(parseIoStat(text), [
      { major: 8, minor: 16, readBytes: 1_459_200, writtenBytes: 314_773_504, reads: 192, writes: 353 },
      { major: 8, minor: 0, readBytes: 90_430_464, writtenBytes: 299_008_000, reads: 8950, writes: 1252 },
      { major: 253, minor: 1, readBytes: 5, writtenBytes: 0, reads: 0, writes: 0 },
    ]);
    assert.deepEqual(parseIoStat(undefined), []);
  });

  it('of v1: bytes and operations are put together', () => {
    const bytes =
      '8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Async 2\n8:0 Discard 0\n8:0 Total 12288\nTotal 12288\n';
    assert.deepEqual(parseBlkio(bytes, '8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n'), [
      { major: 8, minor: 0, readBytes: 4096, writtenBytes: 8192, reads: 1, writes: 2 },
    ]);
    assert.deepEqual(parseBlkio('Total 0\n', 'Total 0\n'), []);
    assert.deepEqual(parseBlkio(undefined, undefined), []);
  });

  it('are few, however many there are', () => {
    const text = Array.from({ length: 5000 }, (_, minor) => `8:${minor} rbytes=1 wbytes=1 rios=1 wios=1`).join('\n');
    assert.equal(parseIoStat(text).length, 256);
    const v1 = text.replaceAll(/ rbytes.*/g, ' Read 1');
    assert.equal(parseBlkio(v1, v1).length, 256);
  });
});
