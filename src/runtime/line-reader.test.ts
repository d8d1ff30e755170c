import assert from 'node:assert/strict';
import { writeSync } from 'node:fs';
import { describe, it } from 'node:test';

import { closeFd } from '../sys/at.ts';
import { createPipe } from '../sys/pipe.ts';
import { LineReader } from './line-reader.ts';

describe('LineReader', () => {
  const signal = AbortSignal.timeout(120_000);

  it('gives lines as they come, in pieces or together, and the rest at the end', async () => {
    const { readFd, writeFd } = createPipe();
    const lines = new LineReader(readFd);
    writeSync(writeFd, 'fir');
    const first = lines.next(signal);
    writeSync(writeFd, 'st\nsecond\nrest');
    assert.equal(await first, 'first');
    assert.equal(await lines.next(signal), 'second');
    closeFd(writeFd);
    assert.equal(await lines.next(signal), 'rest');
    assert.equal(await lines.next(signal), undefined);
  });

  it('waits no longer than its signal', async () => {
    const { readFd, writeFd } = createPipe();
    const lines = new LineReader(readFd);
    const stop = new AbortController();
    const next = lines.next(stop.signal);
    stop.abort(new Error('enough'));
    await assert.rejects(next, /enough/);
    lines.close();
    closeFd(writeFd);
  });

  it('ends when it is closed', async () => {
    const { readFd, writeFd } = createPipe();
    const lines = new LineReader(readFd);
    const next = lines.next(signal);
    lines.close();
    assert.equal(await next, undefined);
    closeFd(writeFd);
  });

  it('refuses a line without an end', async () => {
    const { readFd, writeFd } = createPipe();
    const lines = new LineReader(readFd);
    const refused = assert.rejects(lines.next(signal), { kind: 'internal' });
    for (let i = 0; i < 2; i++) {
      writeSync(writeFd, 'x'.repeat(40_000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await refused;
    closeFd(writeFd);
  });
});
