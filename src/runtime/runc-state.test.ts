import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { identify } from './process-identity.ts';
import { isRunc, letGo, plainState, settleStart } from './runc-state.ts';

const signal = AbortSignal.timeout(60_000);
const NO_HOOKS = { prestart: null, createRuntime: null, poststart: [], poststop: null };

describe('runc-state', () => {
  let root: string;
  before(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-runc-state-'));
  });
  after(() => rmSync(root, { recursive: true }));

  const program = (name: string): string => join(root, name);

  it('takes runc itself for runc, and neither relatives nor wrappers', () => {
    for (const name of ['runc', 'runc-1.5.1', 'nvidia-container-runtime'])
      copyFileSync(process.execPath, program(name));
    symlinkSync('runc', program('default'));
    writeFileSync(program('runc.sh'), '#!/bin/sh\n');
    assert.equal(isRunc('runc version 1.1.5+ds1', program('runc')), true);
    assert.equal(isRunc('runc version 1.5.1', program('runc-1.5.1')), true);
    assert.equal(isRunc('runc version 1.5.1', program('default')), true);
    assert.equal(isRunc('runc version 1.5.1', program('runc.sh')), false);
    assert.equal(isRunc('runc version 1.5.1', program('nvidia-container-runtime')), false);
    for (const other of ['crun version 1.8.1', 'sysbox-runc', 'NVIDIA runc version 1.1.5', 'runc version 2.0.0', ''])
      assert.equal(isRunc(other, program('runc')), false, other);
  });

  it('leaves to runc what has hooks or a resctrl group, and what it does not know', () => {
    const plainOf = (state: unknown, isItself = true): string | undefined => {
      mkdirSync(join(root, 'c'), { recursive: true });
      writeFileSync(join(root, 'c/state.json'), typeof state === 'string' ? state : JSON.stringify(state));
      return plainState({ isRunc: isItself, root }, 'c');
    };
    const folder = join(root, 'c');
    // As 1.1 has it, and 1.5.
    assert.equal(plainOf({ config: { Hooks: NO_HOOKS }, intel_rdt_path: '' }), folder);
    assert.equal(plainOf({ config: {} }), folder);
    assert.equal(plainOf({ config: {} }, false), undefined);
    const hook = { path: '/bin/true' };
    assert.equal(plainOf({ config: { Hooks: { ...NO_HOOKS, poststop: [hook] } } }), undefined);
    assert.equal(plainOf({ config: { Hooks: { anything: {} } } }), undefined);
    assert.equal(plainOf({ config: {}, intel_rdt_path: '/sys/fs/resctrl/c' }), undefined);
    for (const other of ['', '{', '{}', 'null']) assert.equal(plainOf(other), undefined, other);
    assert.equal(plainState({ isRunc: true, root }, 'gone'), undefined);
  });

  it('lets nobody go who does not wait', async () => {
    const self = identify(process.pid);
    assert.ok(self);
    assert.equal(settleStart(root, self), 'executed');
    assert.equal(settleStart(root, { ...self, startTime: 1 }), 'ended');
    assert.equal(settleStart(root, { pid: 2 ** 30, startTime: 1 }), 'ended');
    assert.equal(await letGo(root, self, signal), false);
  });
});
