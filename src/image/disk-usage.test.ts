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
  it('sums up layers with those that still take space, and takes what containers have written', async () => {
    const row = (n: number) => ({ diffId: '', sizeBytes: n * 100, inodes: n, createdAtUs: 0 });
    const layers = { all: () => [row(1), row(2)], freeing: () => [row(4)] };
    const written = { total: async () => ({ usedBytes: 5, inodesUsed: 6 }) };
    const disk = new ImageFilesystems({ root: '/', layers, written });
    assert.deepEqual(await disk.read(), {
      images: { mountpoint: '/', usedBytes: 700, inodesUsed: 7 },
      containers: { mountpoint: '/', usedBytes: 5, inodesUsed: 6 },
    });
    const { mountpoint, totalBytes, totalInodes, freeInodes } = disk.containersDisk();
    assert.equal(mountpoint, '/');
    assert.ok(totalBytes > 0 && totalInodes >= freeInodes);
  });
});
