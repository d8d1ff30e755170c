import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { samplePath } from '../base/own-files.ts';
import { templateFindings } from './network-findings.ts';

test('a template that makes no network is an error, and says why', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-template-'));
  try {
    const bad = join(dir, 'bad');
    writeFileSync(bad, '{ "cniVersion": "1.0.0" }');
    const [found, ...others] = await templateFindings(bad);
    assert.deepEqual([found?.severity, found?.subject, others], ['error', 'cni.conf_template', []]);
    assert.match(found?.message ?? '', /^no network is made of the ranges for pods: .*bad makes no network/);
    assert.match((await templateFindings(join(dir, 'nosuch')))[0]?.message ?? '', /nosuch/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('none is no fault, nor is the sample', async () => {
  assert.deepEqual(await templateFindings(''), []);
  assert.deepEqual(await templateFindings(samplePath('cni/pods.conflist.template')), []);
});
