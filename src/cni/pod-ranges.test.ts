import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { PodRanges } from './pod-ranges.ts';

const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log };
const never = new AbortController().signal;
const NAME = '10-berth-pods.conflist';

let dir: string;
let notes: string;
beforeEach(() => {
  notes = mkdtempSync(join(tmpdir(), 'berth-ranges-notes-'));
  dir = mkdtempSync(join(tmpdir(), 'berth-ranges-'));
});
afterEach(() => {
  for (const folder of [dir, notes]) rmSync(folder, { recursive: true });
});

function open(content: unknown): PodRanges {
  const template = join(dir, 'template');
  writeFileSync(template, typeof content === 'string' ? content : JSON.stringify(content));
  return new PodRanges({ confDir: () => dir, template, noteFile: join(notes, 'net', 'written.sha256'), log });
}

const bridge = {
  cniVersion: '1.0.0',
  name: 'pods',
  plugins: [
    {
      type: 'bridge',
      about: '{{POD_CIDR}}',
      all: '{{POD_CIDRS}}',
      ipam: { type: 'host-local', ranges: '{{POD_RANGES}}', routes: '{{POD_ROUTES}}' },
    },
  ],
};

function written(): { plugins: { about: string; all: string[]; ipam: object }[] } {
  return JSON.parse(readFileSync(join(dir, NAME), 'utf8'));
}

test('ranges of both families fill the template', async () => {
  await open(bridge).write('pod_cidr', ['10.1.0.0/24', 'fd00:1::/64'], never);
  const plugin = written().plugins[0];
  assert.deepEqual(plugin?.ipam, {
    type: 'host-local',
    ranges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd00:1::/64' }]],
    routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
  });
  assert.deepEqual([plugin?.about, plugin?.all], ['10.1.0.0/24', ['10.1.0.0/24', 'fd00:1::/64']]);
});

test('what is there already is not written again, and nothing else is left', async () => {
  const ranges = open(bridge);
  await ranges.write('pod_cidr', ['10.1.0.0/24'], never);
  const before = statSync(join(dir, NAME)).ino;
  await ranges.write('pod_cidr', ['10.1.0.0/24'], never);
  assert.equal(statSync(join(dir, NAME)).ino, before);
  await Promise.all([
    ranges.write('pod_cidr', ['10.2.0.0/24'], never),
    ranges.write('pod_cidr', ['10.3.0.0/24'], never),
  ]);
  assert.equal(written().plugins[0]?.about, '10.3.0.0/24');
  assert.deepEqual(readdirSync(dir).sort(), [NAME, 'template']);
});

test('bad ranges are refused by the name of their field', async () => {
  const bad = [['10.1.0.0'], ['10.1.0.0/33'], ['x/8'], ['10.1.0.0/8', '10.2.0.0/8'], ['10.1.0.0/8/8'], ['']];
  for (const ranges of bad)
    await assert.rejects(open(bridge).write('pod_cidr', ranges, never), { kind: 'invalid', message: /^pod_cidr: / });
  assert.deepEqual(readdirSync(dir), ['template']);
});

test('a template that makes no network leaves what is there, and is named', async () => {
  await open(bridge).write('pod_cidr', ['10.1.0.0/24'], never);
  for (const template of ['{', '[]', { name: 'pods' }, { ...bridge, plugins: '{{POD_CIDRS}}' }])
    await assert.rejects(open(template).write('pod_cidr', ['10.2.0.0/24'], never), {
      kind: 'precondition',
      message: /^cni\.conf_template: .*template/,
    });
  const missing = new PodRanges({
    confDir: () => dir,
    template: join(dir, 'nowhere'),
    noteFile: join(notes, 'note'),
    log,
  });
  await assert.rejects(missing.write('pod_cidr', ['10.2.0.0/24'], never), { kind: 'precondition' });
  assert.equal(written().plugins[0]?.about, '10.1.0.0/24');
});

test('without a template, or without ranges, nothing is written', async () => {
  await new PodRanges({ confDir: () => dir, template: '', noteFile: join(notes, 'note'), log }).write(
    'pod_cidr',
    ['10.1.0.0/24'],
    never,
  );
  await open(bridge).write('pod_cidr', [], never);
  assert.deepEqual(readdirSync(dir), ['template']);
});

test('what was written is noted, so that a purge can tell it from what its owner has changed', async () => {
  await open(bridge).write('pod_cidr', ['10.1.0.0/24'], never);
  const check = () => spawnSync('sha256sum', ['--check', '--status', join(notes, 'net', 'written.sha256')]).status;
  assert.equal(check(), 0);
  await open(bridge).write('pod_cidr', ['10.2.0.0/24'], never);
  assert.equal(check(), 0);
  // As an earlier berthd has left it.
  rmSync(join(notes, 'net'), { recursive: true });
  await open(bridge).write('pod_cidr', ['10.2.0.0/24'], never);
  assert.equal(check(), 0);
  writeFileSync(join(dir, NAME), '{}');
  assert.equal(check(), 1);
});
