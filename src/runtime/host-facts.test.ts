import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { isKernelAtLeast, parseHardLimits, readHostFacts } from './host-facts.ts';

describe('host facts', () => {
  it('reads the hard limits that there are', () => {
    const text = `Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max stack size            8388608              unlimited            bytes
Max open files            1024                 524288               files
Max nice priority         0                    0
Max surprise              1                    2                    eggs
`;
    assert.deepEqual(Object.fromEntries(parseHardLimits(text)), { RLIMIT_NOFILE: 524288, RLIMIT_NICE: 0 });
    const own = parseHardLimits(readFileSync('/proc/self/limits', 'utf8'));
    assert.ok(own.has('RLIMIT_SIGPENDING'), 'this kernel writes them like that');
  });

  it('compares kernel releases', () => {
    assert.deepEqual(
      ['5.11.0', '5.12', '5.12.0-1-amd64', '6.1.0', '4.19', 'x'].map((version) => isKernelAtLeast(version, 5, 12)),
      [false, true, true, true, false, false],
    );
  });

  it('reads this machine', () => {
    const facts = readHostFacts(silentLogger);
    assert.ok(facts.oomScoreAdjFloor >= -1000 && facts.oomScoreAdjFloor <= 1000);
    assert.ok((facts.rlimitCeilings.get('RLIMIT_NOFILE') ?? 0) > 0);
  });
});
