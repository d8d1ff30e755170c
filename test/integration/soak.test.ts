/** The short form of `npm run soak`: random requests against a model, with berthd killed at random moments. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, test } from 'node:test';

import { PodLab } from '../harness/pod-lab.ts';
import { assertNoGrowth, SHORT_LIMITS, soak } from '../soak/soak.ts';

/** Another one each day; a failure prints it. */
const SEED = Number(process.env['BERTH_SOAK_SEED'] ?? Math.floor(Date.now() / 86_400_000));

suite('soak', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  after(async () => await lab.close());

  test('random requests with kills: what berthd lists is what its client has made', async (t) => {
    const samples = await soak(lab, { lifecycles: 120, limitMs: 45_000, seed: SEED, kills: true });
    const last = samples.at(-1) ?? assert.fail('no round was run');
    assert.ok(last.kills > 0);
    t.diagnostic(JSON.stringify(last));
  });

  test('random requests without: it takes no more memory, descriptors, threads and disk than before', async (t) => {
    const samples = await soak(lab, { lifecycles: 150, limitMs: 45_000, seed: SEED, kills: false });
    t.diagnostic(JSON.stringify([samples.at(0), samples.at(-1)]));
    assertNoGrowth(samples, SHORT_LIMITS);
  });
});
