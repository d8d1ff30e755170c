import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { parseMountInfo } from './mount-info.ts';

test('a line with optional fields is read whole', () => {
  const line = '36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue';
  assert.deepEqual(parseMountInfo(`${line}\n`), [
    {
      id: 36,
      parentId: 35,
      device: '98:0',
      root: '/mnt1',
      mountPoint: '/mnt2',
      options: ['rw', 'noatime'],
      propagation: ['shared:1', 'master:2'],
      type: 'ext3',
      source: '/dev/root',
      superOptions: ['rw', 'errors=continue'],
    },
  ]);
});

test('a private mount has no propagation, and an empty source stays empty', () => {
  const [mount] = parseMountInfo('1 0 0:1 / / rw - tmpfs  rw');
  assert.deepEqual([mount?.propagation, mount?.source, mount?.superOptions], [[], '', ['rw']]);
});

test('escaped paths come back as they were', () => {
  const encode = (text: string): string =>
    text.replace(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
  fc.assert(
    fc.property(fc.string(), fc.string(), (a, b) => {
      const [root, mountPoint] = [`/${a}`.replaceAll('\0', ''), `/${b}`.replaceAll('\0', '')];
      const [mount] = parseMountInfo(`1 0 0:1 ${encode(root)} ${encode(mountPoint)} rw - tmpfs none rw`);
      assert.deepEqual([mount?.root, mount?.mountPoint], [root, mountPoint]);
    }),
  );
});

test('any text parses without throwing, and broken lines are left out', () => {
  fc.assert(fc.property(fc.string(), (text) => void parseMountInfo(text)));
  assert.deepEqual(parseMountInfo('36 35 98:0 /mnt1 /mnt2 rw ext3\n\nx'), []);
});
