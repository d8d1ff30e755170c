import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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

  it('takes of cgroups what is mounted, and no folder for a hierarchy', (t) => {
    const root = mkdtempSync(join(tmpdir(), 'berth-facts-'));
    t.after(() => rmSync(root, { recursive: true }));
    const at = (name: string, file: string): string => {
      mkdirSync(join(root, name), { recursive: true });
      writeFileSync(join(root, name, file), '0\n');
      return join(root, name);
    };
    const v1 = (controller: string, mountPoint: string) =>
      ({ version: 1, controllers: [controller], name: '', mountPoint }) as const;
    const memory = v1('memory', at('memory', 'memory.memsw.limit_in_bytes'));
    const hugetlb = v1('hugetlb', at('hugetlb', 'hugetlb.2MB.limit_in_bytes'));
    const facts = readHostFacts(silentLogger, [memory, hugetlb]);
    assert.deepEqual([facts.cgroupVersion, facts.swapAccounting, facts.hugepageSizes], [1, true, ['2MB']]);
    const cpu = v1('cpu', at('cpu', 'cpu.shares'));
    const without = readHostFacts(silentLogger, [cpu]);
    assert.deepEqual([without.cgroupVersion, without.swapAccounting, without.hugepageSizes], [1, false, []]);
    at('unified/a', 'memory.swap.max');
    writeFileSync(join(root, 'unified', 'cgroup.controllers'), 'cpu memory\n');
    const unified = { version: 2, controllers: [], name: '', mountPoint: join(root, 'unified') } as const;
    const pure = readHostFacts(silentLogger, [unified]);
    assert.deepEqual([pure.cgroupVersion, pure.swapAccounting, pure.hugepageSizes], [2, true, []]);
    assert.equal(readHostFacts(silentLogger, [unified, cpu]).cgroupVersion, 1, 'hybrid');
    assert.equal(readHostFacts(silentLogger, []).cgroupVersion, 1, 'nothing is mounted');
  });

  it('reads this machine', () => {
    const facts = readHostFacts(silentLogger);
    assert.ok(facts.oomScoreAdjFloor >= -1000 && facts.oomScoreAdjFloor <= 1000);
    assert.ok((facts.rlimitCeilings.get('RLIMIT_NOFILE') ?? 0) > 0);
  });
});
