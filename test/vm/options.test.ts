import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';

import { INSTALL, JOBS } from './jobs.ts';
import { parseOptions, USAGE } from './options.ts';

const jobsOf = (...args: readonly string[]): string[] | undefined => parseOptions(args)?.jobs.map(({ name }) => name);

test('without names the short form runs, with --long all jobs, and with names those, in their own order', () => {
  const short = JOBS.filter(({ isShort }) => isShort).map(({ name }) => name);
  assert.deepEqual(jobsOf(), short);
  assert.deepEqual(
    jobsOf('--long'),
    JOBS.map(({ name }) => name),
  );
  assert.deepEqual(jobsOf('reboot', 'apparmor'), ['apparmor', 'reboot']);
  assert.equal(parseOptions(['--help']), undefined);
});

test('what is wrong is said', () => {
  assert.throws(() => parseOptions(['rebot']), /there is no job rebot; there are: .*reboot/);
  assert.throws(() => parseOptions(['--memory', 'much']), /--memory much: expected MiB, at least 1024/);
  assert.throws(() => parseOptions(['--accel', 'xen']), /--accel xen: expected tcg or kvm/);
  assert.throws(() => parseOptions(['--unknown']), /--unknown/);
});

test('each job runs files that are there, and the usage names it', () => {
  for (const { name, phases } of [INSTALL, ...JOBS]) {
    for (const phase of phases) {
      const files = phase.split(' ').filter((word) => word.startsWith('test/'));
      assert.ok(files.length > 0, phase);
      for (const file of files) assert.ok(existsSync(new URL(`../../${file}`, import.meta.url)), file);
    }
    if (name !== INSTALL.name) assert.ok(USAGE.includes(name), name);
  }
});
