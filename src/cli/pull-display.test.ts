import assert from 'node:assert/strict';
import { suite, test } from 'node:test';

import { Pull } from '../../proto/gen/berth/admin.ts';
import { timeLeft } from './output.ts';
import { PullDisplay } from './pull-display.ts';

const pull = (phases: readonly string[], bytesDone: bigint): Pull =>
  Pull.create({
    phase: 'downloading',
    layersPresent: 1,
    layers: phases.map((phase, index) => ({
      digest: `sha256:${String(index).repeat(64)}`,
      phase,
      bytesTotal: 4_194_304n,
      bytesDone,
    })),
    transferredBytes: bytesDone,
    bytesPerSecond: 1024,
    secondsLeft: 75.2,
  });

suite('the display of a pull', () => {
  test('tells each step of a layer once where there is no terminal', () => {
    const said: string[] = [];
    const display = new PullDisplay({ out: () => {}, err: (more) => void said.push(more) });
    display.show(pull(['downloading', 'waiting'], 1024n));
    display.show(pull(['downloading', 'downloading'], 2048n));
    display.show(pull(['done', 'downloading'], 4096n));
    const [first, second] = ['0'.repeat(12), '1'.repeat(12)];
    assert.equal(said.join(''), `${first} downloading 4.0 MiB\n${second} downloading 4.0 MiB\n${first} done 4.0 MiB\n`);
  });

  test('draws a bar for each layer over the one before on a terminal, and no longer than its lines', () => {
    const parts: string[] = [];
    const display = new PullDisplay({ out: () => {}, err: (more) => void parts.push(more), columns: 80 });
    display.show(pull(['downloading'], 2_097_152n));
    display.show(pull(['done'], 4_194_304n));
    const bar = `${'='.repeat(15)}${' '.repeat(15)}`;
    assert.equal(
      parts[0],
      `\r\x1b[2K${'0'.repeat(12)} [${bar}]  50%   4.0 MiB downloading\n` +
        '\r\x1b[2K0 of 1 layers, 1 more was here, 2.0 MiB at 1.0 KiB/s, 1m16s left\n',
    );
    assert.match(parts[1] ?? '', /^\x1b\[2A\r\x1b\[2K0+ \[={30}\] 100%/);
    const narrow: string[] = [];
    new PullDisplay({ out: () => {}, err: (more) => void narrow.push(more), columns: 20 }).show(pull(['done'], 1n));
    for (const line of narrow.join('').split('\n')) assert.ok(line.replace('\r\x1b[2K', '').length < 20, line);
  });

  test('time left is in two units', () => {
    assert.deepEqual([-1, 0, 59.2, 3599, 7500].map(timeLeft), ['-', '0s', '1m0s', '59m59s', '2h5m']);
  });
});
