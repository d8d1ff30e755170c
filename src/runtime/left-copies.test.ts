import assert from 'node:assert/strict';
import { test } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { parseMountInfo } from '../sys/mount-info.ts';
import { copiesAmong, removeLeftCopies } from './left-copies.ts';

const MOUNTS = `
22 1 254:1 / / rw - ext4 /dev/vda1 rw
30 22 254:1 /usr/bin/crun /tmp/crun.a1B2c3 ro - ext4 /dev/vda1 rw
31 22 254:1 /usr/bin/crun /tmp/mine.a1B2c3 ro - ext4 /dev/vda1 rw
32 22 254:1 /home/me/notes /tmp/crun.zzzzzz ro - ext4 /dev/vda1 rw
33 22 254:1 /usr/bin/crun /tmp/crun.a1B2c3/deeper ro - ext4 /dev/vda1 rw
`;

test('only a program of a runtime where crun mounts it is a copy', () => {
  const mounts = parseMountInfo(MOUNTS);
  assert.deepEqual(copiesAmong(mounts, ['/usr/bin/crun', '/usr/sbin/runc']), ['/tmp/crun.a1B2c3']);
  assert.deepEqual(copiesAmong(mounts, ['/usr/sbin/runc']), []);
});

test('where there is none nothing is waited for', async () => {
  await removeLeftCopies(['/usr/bin/crun'], () => [], silentLogger, AbortSignal.abort(new Error('would wait')));
});
