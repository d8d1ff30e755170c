import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { identify } from './process-identity.ts';
import { isPlain, isRunc, isWaiting, letGo } from './runc-state.ts';

const signal = AbortSignal.timeout(60_000);
const linux = {
  namespaces: [],
  devices: [],
  cgroupsPath: '',
  resources: {},
  maskedPaths: [],
  readonlyPaths: [],
};

describe('runc-state', () => {
  it('takes runc itself for runc, and neither relatives nor scripts that end in it', () => {
    assert.equal(isRunc('runc version 1.1.5+ds1', false), true);
    assert.equal(isRunc('runc version 1.5.1', false), true);
    assert.equal(isRunc('runc version 1.1.5+ds1', true), false);
    for (const other of ['crun version 1.8.1', 'sysbox-runc', 'NVIDIA runc version 1.1.5', 'runc version 2.0.0', ''])
      assert.equal(isRunc(other, false), false, other);
  });

  it('leaves to runc what has hooks or a resctrl group', () => {
    const handler = { isRunc: true };
    assert.equal(isPlain(handler, { linux }), true);
    assert.equal(isPlain({ isRunc: false }, { linux }), false);
    assert.equal(isPlain(handler, { linux, hooks: { poststop: [{ path: '/bin/true' }] } }), false);
    assert.equal(isPlain(handler, { linux: { ...linux, intelRdt: {} } }), false);
  });

  it('lets nobody go who does not wait', async () => {
    const self = identify(process.pid);
    assert.ok(self);
    assert.equal(isWaiting(self), false);
    assert.equal(isWaiting({ pid: 2 ** 30, startTime: 1 }), false);
    const root = mkdtempSync(join(tmpdir(), 'berth-runc-state-'));
    try {
      assert.equal(await letGo({ root }, 'c', self, signal), false);
    } finally {
      rmSync(root, { recursive: true });
    }
  });
});
