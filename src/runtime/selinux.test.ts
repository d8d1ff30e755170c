import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { type Logger, silentLogger } from '../base/log.ts';
import { Selinux } from './selinux.ts';

describe('Selinux', () => {
  let folder: string;
  let warnings: number;
  const log: Logger = {
    ...silentLogger,
    warn() {
      warnings += 1;
    },
  };
  const open = (isWanted = true) =>
    new Selinux({ isWanted, log, files: { enforce: join(folder, 'enforce'), folder: join(folder, 'etc') } });
  const plain = { options: undefined, level: 's0:c1,c2', isUnbounded: false };
  const options = { user: '', role: '', type: '', level: '' };

  beforeEach(() => {
    warnings = 0;
    folder = mkdtempSync(join(tmpdir(), 'berth-selinux-'));
    mkdirSync(join(folder, 'etc/mls/contexts'), { recursive: true });
    writeFileSync(join(folder, 'enforce'), '0');
    writeFileSync(join(folder, 'etc/config'), '# SELINUXTYPE= can be\nSELINUX=enforcing\nSELINUXTYPE=mls\n');
    writeFileSync(
      join(folder, 'etc/mls/contexts/lxc_contexts'),
      'process = "system_u:system_r:container_t:s0"\ncontent = "x"\nfile = "system_u:object_r:container_file_t:s0"\n',
    );
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("gives a container the policy's labels with the level of its pod", () => {
    assert.deepEqual(open().labelsFor(plain), {
      process: 'system_u:system_r:container_t:s0:c1,c2',
      files: 'system_u:object_r:container_file_t:s0:c1,c2',
    });
  });

  it('takes what the client says, and of it only the level for files', () => {
    const own = { user: 'u', role: 'r', type: 't', level: 's0:c7' };
    assert.deepEqual(open().labelsFor({ ...plain, options: own }), {
      process: 'u:r:t:s0:c7',
      files: 'system_u:object_r:container_file_t:s0:c7',
    });
    const type = { ...options, type: 'spc_t' };
    assert.equal(open().labelsFor({ ...plain, options: type })?.process, 'system_u:system_r:spc_t:s0:c1,c2');
  });

  it('leaves the process of one that may do anything to the policy, unless its client says a type', () => {
    const labels = open().labelsFor({ ...plain, isUnbounded: true });
    assert.deepEqual([labels?.process, labels?.files], [undefined, 'system_u:object_r:container_file_t:s0:c1,c2']);
    const typed = { ...plain, isUnbounded: true, options: { ...options, type: 'mine_t' } };
    assert.equal(open().labelsFor(typed)?.process, 'system_u:system_r:mine_t:s0:c1,c2');
  });

  it('makes levels of two categories that nobody has', () => {
    const selinux = open();
    const taken = new Set<string>();
    for (let n = 0; n < 2000; n++) {
      const level = selinux.newLevel(taken) ?? '';
      const [, a, b] = /^s0:c(\d+),c(\d+)$/.exec(level) ?? [];
      assert.ok(Number(a) < Number(b) && Number(b) < 1024, level);
      assert.ok(!taken.has(level));
      taken.add(level);
    }
    assert.throws(() => selinux.newLevel({ has: () => true } as unknown as Set<string>), { kind: 'exhausted' });
  });

  it('refuses labels that nothing enforces, and says why; spc_t and a mere level ask for nothing', () => {
    const label = { ...options, type: 'container_t', level: 's0:c7' };
    const refused = (selinux: Selinux, message: RegExp): void =>
      assert.throws(() => selinux.checkDemand(label, 'here'), { kind: 'precondition', message });
    open().checkDemand(label, 'here');
    refused(open(false), /^here: SELinux label ::container_t:s0:c7 is asked for, and runtime\.selinux is false/);
    writeFileSync(join(folder, 'etc/mls/contexts/lxc_contexts'), '');
    refused(open(), /policy of this host has no labels for containers/);
    rmSync(join(folder, 'enforce'));
    refused(open(), /this kernel has no SELinux/);
    open().checkDemand(undefined, 'here');
    open().checkDemand({ ...options, level: 's0:c7' }, 'here');
    open().checkDemand({ ...label, type: 'spc_t' }, 'here');
  });

  it('is off without the kernel, without a wish, and without a policy that knows containers', () => {
    assert.equal(open(false).isEnabled, false);
    writeFileSync(join(folder, 'etc/mls/contexts/lxc_contexts'), 'process = "broken"\n');
    assert.equal(open().isEnabled, false);
    assert.equal(warnings, 1);
    rmSync(join(folder, 'enforce'));
    const off = open();
    assert.deepEqual([off.isEnabled, off.newLevel(new Set()), off.labelsFor(plain)], [false, undefined, undefined]);
    assert.equal(warnings, 1);
  });
});
