import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { isKernelAtLeast, parseApparmorProfiles, parseHardNofile, readHostFacts } from './host-facts.ts';

describe('host facts', () => {
  it('reads the hard limit of open files', () => {
    const limits = (hard: string) =>
      `Limit  Soft  Hard  Units\nMax open files            1024                 ${hard}              files     \n`;
    assert.equal(parseHardNofile(limits('524288')), 524288);
    assert.equal(parseHardNofile(limits('unlimited')), Number.POSITIVE_INFINITY);
  });

  it('compares kernel releases', () => {
    assert.deepEqual(
      ['5.11.0', '5.12', '5.12.0-1-amd64', '6.1.0', '4.19', 'x'].map((version) => isKernelAtLeast(version, 5, 12)),
      [false, true, true, true, false, false],
    );
  });

  it('reads the names of AppArmor profiles', () => {
    const text = 'docker-default (enforce)\nsnap.x//null-/usr/bin/y (complain)\nbroken\n';
    assert.deepEqual([...parseApparmorProfiles(text)], ['docker-default', 'snap.x//null-/usr/bin/y']);
  });

  it('reads this machine', () => {
    const facts = readHostFacts(silentLogger);
    assert.ok(facts.oomScoreAdjFloor >= -1000 && facts.oomScoreAdjFloor <= 1000);
    assert.ok(facts.nofileLimit > 0 && facts.nofileLimit <= 1_048_576);
  });
});
