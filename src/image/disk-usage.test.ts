import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { ImageFilesystems, mountpointOf } from './disk-usage.ts';

describe('mountpointOf', () => {
  it('is the longest that covers the path', () => {
    const points = ['/', '/var', '/var/lib', '/var/lib/berth-other', '/proc'];
    assert.equal(mountpointOf('/var/lib/berth', points), '/var/lib');
    assert.equal(mountpointOf('/var', points), '/var');
    assert.equal(mountpointOf('/srv', points), '/');
  });
});

describe('ImageFilesystems', () => {
  it('walks at most every ten seconds, and again after a failure', async () => {
    let [nowMs, walks] = [0, 0];
    let broken = true;
    const totalUsage = async () => {
      walks += 1;
      if (broken) throw new Error('disk broken');
      return { usedBytes: 5, inodesUsed: 6 };
    };
    const layers = { all: () => [1, 2].map((n) => ({ diffId: '', sizeBytes: n * 100, inodes: n, createdAtUs: 0 })) };
    const disk = new ImageFilesystems({ root: '/', layers, snapshots: { totalUsage }, nowMs: () => nowMs });
    await assert.rejects(disk.read(), /disk broken/);
    broken = false;
    const [first] = await Promise.all([disk.read(), disk.read()]);
    assert.deepEqual(first, {
      images: { mountpoint: '/', usedBytes: 300, inodesUsed: 3 },
      containers: { mountpoint: '/', usedBytes: 5, inodesUsed: 6 },
    });
    nowMs = 10_000;
    await disk.read();
    assert.equal(walks, 2);
    nowMs = 10_001;
    await disk.read();
    assert.equal(walks, 3);
  });
});
