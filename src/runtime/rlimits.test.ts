import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { parseUlimit } from '../config/parse-setting.ts';
import { resolveRlimits } from './rlimits.ts';

const parsed = (...texts: string[]) => texts.flatMap((text) => parseUlimit(text) ?? []);

describe('resolveRlimits', () => {
  it('gives a million open files when nobody says otherwise', () => {
    assert.deepEqual(resolveRlimits([], new Map()), [{ type: 'RLIMIT_NOFILE', soft: 1_048_576, hard: 1_048_576 }]);
  });

  it('takes what the owner of the node says, the last word for each', () => {
    assert.deepEqual(resolveRlimits(parsed('core=0', 'nofile=1:2', 'core=0:-1'), new Map()), [
      { type: 'RLIMIT_NOFILE', soft: 1, hard: 2 },
      { type: 'RLIMIT_CORE', soft: 0, hard: Number.POSITIVE_INFINITY },
    ]);
  });

  it('never asks for more than the host can give', () => {
    assert.deepEqual(resolveRlimits(parsed('memlock=-1', 'nofile=10:2000'), new Map([['RLIMIT_NOFILE', 1000]])), [
      { type: 'RLIMIT_NOFILE', soft: 10, hard: 1000 },
      { type: 'RLIMIT_MEMLOCK', soft: Number.POSITIVE_INFINITY, hard: Number.POSITIVE_INFINITY },
    ]);
  });
});
