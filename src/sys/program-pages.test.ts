import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { ProgramPages, readOnlyFileRanges } from './program-pages.ts';

const MAPS = `00400000-00746000 r--p 00000000 fe:00 1234                               /opt/with space/node
0074a000-03044000 r-xp 0034a000 fe:00 1234                               /opt/with space/node
03201000-06b51000 r--p 02e01000 fe:00 1234                               /opt/with space/node
06b52000-06b56000 r--p 06751000 fe:00 1234                               /opt/with space/node
06b56000-06b7d000 rw-p 06755000 fe:00 1234                               /opt/with space/node
06b7d000-06bb6000 rw-p 00000000 00:00 0
30000000-40000000 r-xp 00000000 00:00 0                                  [anon:v8]
7f0000000000-7f0000400000 r--s 00000000 fe:00 77                         /var/lib/berth/berth.db-shm
7f0000400000-7f0000500000 rw-p 00000000 fe:00 78                         /lib/libc.so.6
7ffd00000000-7ffd00200000 r-xp 00000000 00:00 0                          [vdso]
`;

describe('pages of programs', () => {
  test('those of files that cannot have been written to', () => {
    assert.deepEqual(readOnlyFileRanges(MAPS, 0), [
      { address: 0x400000, bytes: 0x346000 },
      { address: 0x74a000, bytes: 0x28fa000 },
      { address: 0x3201000, bytes: 0x3950000 },
    ]);
    assert.equal(readOnlyFileRanges(MAPS, 0x400000).length, 2);
  });

  test('what the linker protected once it had written to it is left alone', () => {
    const kept = execFileSync(process.execPath, ['-e', 'console.log(fs.readFileSync("/proc/self/smaps", "latin1"))'], {
      encoding: 'latin1',
    });
    const ranges = readOnlyFileRanges(
      kept
        .split('\n')
        .filter((line) => /^[0-9a-f]+-/.test(line))
        .join('\n'),
      0,
    );
    assert.ok(ranges.length > 5);
    const written = [...kept.matchAll(/^([0-9a-f]+)-[0-9a-f]+ r.*\n(?:\w+:.*\n)*?Anonymous: +[1-9]/gm)].map(
      ([, from]) => Number.parseInt(from ?? '', 16),
    );
    assert.ok(written.length > 0);
    assert.deepEqual(
      ranges.filter(({ address }) => written.includes(address)),
      [],
    );
  });

  test('this process lets go of some megabytes of its program, and goes on', () => {
    const pages = new ProgramPages();
    const before = fileBytes();
    pages.release();
    const after = fileBytes();
    assert.ok(after < before - 5e6, `${before} bytes of files before, ${after} after`);
    assert.equal(JSON.stringify([1, { a: 'b'.repeat(3) }].map((x) => x)), '[1,{"a":"bbb"}]');
  });
});

function fileBytes(): number {
  return Number(/^RssFile:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]) * 1024;
}
