import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { specInput } from '../../test/fakes/spec-input.ts';
import { Bundles } from './bundle.ts';
import { buildSpec } from './spec.ts';

describe('Bundles', () => {
  const spec = buildSpec(specInput({ spec: { env: [{ key: 'PASSWORD', value: 'secret' }] } }));
  let folder = '';
  let bundles = new Bundles('');
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-bundle-'));
    bundles = new Bundles(folder);
  });
  after(() => rmSync(folder, { recursive: true }));

  it('has none at first', () => assert.deepEqual(bundles.ids(), []));

  it('writes what nobody but root can read', () => {
    const paths = bundles.write('one', spec);
    assert.equal(statSync(paths.folder).mode & 0o777, 0o700);
    assert.equal(statSync(paths.config).mode & 0o777, 0o600);
    assert.equal(readlinkSync(paths.rootfs), '/rootfs');
    assert.deepEqual(bundles.readSpec('one'), JSON.parse(JSON.stringify(spec)));
    assert.deepEqual(bundles.readProcess('one').args, ['/entry']);
    assert.deepEqual(bundles.ids(), ['one']);
  });

  it('writes none twice', () => assert.throws(() => bundles.write('one', spec), { kind: 'alreadyExists' }));

  it('throws notFound for an unknown one', () => assert.throws(() => bundles.readSpec('none'), { kind: 'notFound' }));

  it('removes a bundle, present or not', () => {
    bundles.remove('one');
    bundles.remove('one');
    assert.deepEqual(bundles.ids(), []);
  });

  it('removes the files of commands alone, present or not', () => {
    const { folder: own } = bundles.write('with commands', spec);
    for (const name of ['exec-1.json', 'exec-1.pid', 'pid']) writeFileSync(join(own, name), '');
    bundles.removeExecFiles('with commands');
    assert.deepEqual(readdirSync(own).sort(), ['config.json', 'pid', 'rootfs']);
    bundles.removeExecFiles('none');
    bundles.remove('with commands');
  });

  it('does not walk into a folder: something may be mounted there', () => {
    const { folder: own } = bundles.write('two', spec);
    mkdirSync(join(own, 'mounted'));
    writeFileSync(join(own, 'mounted/precious'), '');
    assert.throws(() => bundles.remove('two'), /remove bundle/);
    assert.deepEqual(readdirSync(join(own, 'mounted')), ['precious']);
  });

  it('knows no monitor by a pid file that another process answers to', () => {
    const { monitorPidFile } = bundles.write('three', spec);
    assert.deepEqual(bundles.findMonitors('three'), []);
    writeFileSync(monitorPidFile, String(process.pid));
    assert.deepEqual(bundles.findMonitors('three'), []);
  });
});
