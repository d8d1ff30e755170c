import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { parseOptions } from '../../bench/measure/options.ts';
import { drawPlots } from '../../bench/measure/plots.ts';
import { toMarkdown } from '../../bench/measure/report.ts';
import { targetsTable } from '../../bench/measure/targets.ts';
import { endpointOf, resultsOf } from './results.ts';

const berth = endpointOf('berth', 'berth 0.1.0', 45);
const crio = endpointOf('crio-1.36', 'cri-o 1.36.3', 100);
const containerd = endpointOf('containerd', 'containerd v2.3.4', 100);

/** The cells of a row of a table. */
function row(markdown: string, name: string): string[] {
  const line = markdown.split('\n').find((one) => one.startsWith(`| ${name} |`)) ?? '';
  return line
    .split('|')
    .slice(2, -1)
    .map((cell) => cell.trim());
}

describe('what the bench tells', () => {
  test('each target as a ratio to the peer that it names, and whether it is met', () => {
    const table = targetsTable(resultsOf([berth, crio, containerd]));
    const upLimits = '0.5 of CRI-O, 0.4 of containerd';
    assert.deepEqual(row(table, 'pod up, p50, 1 at a time'), [upLimits, '45.00 ms', '0.45', '0.45', '**no**']);
    assert.deepEqual(row(table, 'pod down, p50'), ['0.4 of CRI-O', '45.00 ms', '0.45', '0.45', '**no**']);
    assert.deepEqual(row(table, 'ExecSync, p50').at(-1), 'yes');
    assert.deepEqual(row(table, 'lives per second, 4 at a time'), [
      'at least 2 of CRI-O',
      '22.22 1/s',
      '2.22',
      '2.22',
      'yes',
    ]);
    assert.deepEqual(row(table, 'memory of the daemon after 200 lives, rested'), [
      '80 MB',
      '45.00 MB',
      '0.45',
      '0.45',
      'yes',
    ]);
    assert.deepEqual(row(table, 'event loop held up, longest, 16 at a time'), ['10 ms', '12.00 ms', '', '', '**no**']);
  });

  test('targets that only a peer could tell stay open without it, and those not measured are left out', () => {
    const table = targetsTable(resultsOf([berth]));
    assert.deepEqual(row(table, 'pod down, p50'), ['0.4 of CRI-O', '45.00 ms', '', '', 'not compared']);
    assert.match(table, /beside it; see --with/);
    assert.doesNotMatch(targetsTable(resultsOf([berth, crio])), /--with/);
    assert.deepEqual(row(table, 'start, empty').at(-1), 'yes');
    assert.doesNotMatch(table, /400 pods|above the floor/);
  });

  test('nothing is said of processor time where others took less of it than at rest', () => {
    const levels = berth.levels.map((level) => ({ ...level, machineMsPerLifecycle: -1 }));
    assert.doesNotMatch(targetsTable(resultsOf([{ ...berth, levels }, crio])), /processor time of the machine/);
    const peer = { ...crio, levels: crio.levels.map((level) => ({ ...level, machineMsPerLifecycle: 0 })) };
    const cells = row(targetsTable(resultsOf([berth, peer])), 'processor time of the machine for a life');
    assert.equal(cells.at(-1), 'not compared');
  });

  test('no targets for others than Berth', () => {
    assert.equal(targetsTable(resultsOf([crio])), '');
  });

  test('ratios of the first endpoint to each other one', () => {
    const cells = row(toMarkdown(resultsOf([berth, crio, containerd])), 'pod up');
    assert.deepEqual(cells.slice(-2), ['0.45', '0.45']);
  });

  test('what a daemon holds before the lives, right after them and when it has rested', () => {
    const cells = row(toMarkdown(resultsOf([berth])), 'berth (berth 0.1.0)');
    assert.deepEqual(cells, ['45.0', '22.5', '208', '135.0', '90.0', '45.0', '22.5']);
  });

  test('plots that are the same for the same figures, with names made harmless', () => {
    const plots = drawPlots(resultsOf([berth, endpointOf('a<b>&c', 'x', 10)]));
    assert.equal(plots, drawPlots(resultsOf([berth, endpointOf('a<b>&c', 'x', 10)])));
    assert.match(plots, /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    assert.match(plots, /a&lt;b&gt;&amp;c/);
    assert.doesNotMatch(plots, /NaN|undefined|Infinity/);
    assert.equal(plots.match(/<rect/g)?.length, 1 + 2 + 2 * (5 * 2 + 6));
  });
});

describe('options of the bench', () => {
  test('peers by name, by the folder of their programs, and other checkouts', () => {
    const options = parseOptions(['--with', 'containerd', '--with', 'crio=/opt/crio-1.36', '--with', '/src/berth-old']);
    assert.deepEqual(options?.peers, [
      { kind: 'containerd', name: 'containerd', folder: '' },
      { kind: 'crio', name: 'crio-1.36', folder: '/opt/crio-1.36' },
      { kind: 'berth', name: 'berth-old', folder: '/src/berth-old' },
    ]);
  });

  test('pods that stand, at each endpoint and at the first', () => {
    const standing = (text: string): unknown => {
      const options = parseOptions(['--standing', text]);
      return [options?.standing, options?.standingFirst];
    };
    assert.deepEqual(standing('100,400'), [100, 400]);
    assert.deepEqual(standing('0'), [0, 0]);
    assert.throws(() => standing('1,2,3'), /expected N or N,M/);
  });

  test('what is wrong is told', () => {
    for (const peer of ['docker', 'crio=relative', 'containerd=']) {
      assert.throws(() => parseOptions(['--with', peer]), /expected containerd, crio/);
    }
    assert.throws(() => parseOptions(['--rest', '0']), /--rest 0: expected a positive number/);
  });
});
