import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseSetting, parseUlimit } from './parse-setting.ts';

test('a setting has a name, and its value may have further signs of equality', () => {
  assert.deepEqual(parseSetting('A=b=c'), { name: 'A', value: 'b=c' });
  assert.deepEqual(parseSetting('A='), { name: 'A', value: '' });
  assert.deepEqual(['', 'A', '=b', 'A=b\n', 'A=\0'].map(parseSetting), Array(5).fill(undefined));
});

test('a limit has one number or two, the first not above the second', () => {
  assert.deepEqual(parseUlimit('nofile=1:2'), { type: 'RLIMIT_NOFILE', soft: 1, hard: 2 });
  assert.deepEqual(parseUlimit('core=0:-1'), { type: 'RLIMIT_CORE', soft: 0, hard: Number.POSITIVE_INFINITY });
  assert.deepEqual(parseUlimit('stack=8'), { type: 'RLIMIT_STACK', soft: 8, hard: 8 });
  const bad = [
    'nofile',
    'nofile=',
    'nofile=2:1',
    'nofile=-1:5',
    'nofile=-2',
    'fly=1',
    'NOFILE=1',
    'nofile=1:2:3',
    'core=1.5',
  ];
  assert.deepEqual(bad.map(parseUlimit), Array(bad.length).fill(undefined));
});
