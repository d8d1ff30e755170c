/** `npm run soak`: 2,000 pod lifecycles of random requests, half of them with berthd killed now and then. */

import { appendFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { PodLab } from '../harness/pod-lab.ts';
import { assertNoGrowth, LONG_LIMITS, type SoakSample, soak } from './soak.ts';

const { values } = parseArgs({
  options: {
    lifecycles: { type: 'string', default: '2000' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    /** Each sample becomes a line of it. */
    out: { type: 'string', default: 'soak.jsonl' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write('usage: npm run soak -- [--lifecycles 2000] [--seed N] [--out soak.jsonl]\n');
  process.exit(0);
}
const lifecycles = Number(values.lifecycles) / 2;
const seed = Number(values.seed);
const LONGEST_MS = 12 * 3_600_000;

writeFileSync(values.out, '');
const report = (phase: string) => (sample: SoakSample) => {
  appendFileSync(values.out, `${JSON.stringify({ phase, ...sample })}\n`);
  const mib = Math.round(sample.memoryBytes / 2 ** 20);
  const { descriptors, threads, databaseBytes, startMs } = sample;
  const use = `${mib} MiB, ${descriptors} descriptors, ${threads} threads, database ${databaseBytes >> 10} KiB`;
  process.stdout.write(`${phase}: ${sample.lifecycles} pods, ${sample.kills} kills, ${use}, start ${startMs} ms\n`);
};

process.stdout.write(`soak: seed ${seed}\n`);
const lab = await PodLab.start();
try {
  await soak(lab, { lifecycles, limitMs: LONGEST_MS, seed, kills: true, onSample: report('kills') });
  const calm = await soak(lab, { lifecycles, limitMs: LONGEST_MS, seed, kills: false, onSample: report('calm') });
  assertNoGrowth(calm, LONG_LIMITS);
  process.stdout.write('soak: nothing was left, and nothing has grown\n');
} catch (err) {
  process.stderr.write(`berthd's log:\n${lab.berthd.log()}\n`);
  throw err;
} finally {
  await lab.close();
}
