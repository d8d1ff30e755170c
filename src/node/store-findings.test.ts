import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import type { StoreContents } from '../store/inspect-store.ts';
import { tellFindings } from './mend.ts';
import { databaseFindings, leftFindings, storeFindings } from './store-findings.ts';
import { sysctlFindings } from './sysctl-findings.ts';

const idOf = (digit: string): string => digit.repeat(64);
const [POD, LOST, CONTAINER, BROKEN] = ['a', 'b', 'c', 'd'].map(idOf) as [string, string, string, string];

let top: string;
let places: { root: string; state: string };
const write = (path: string, text = '{}'): void => {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, text, { mode: 0o600 });
};
const contents: StoreContents = {
  sandboxes: [{ id: POD, state: 'ready' }],
  containers: [
    { id: CONTAINER, state: 'running' },
    { id: idOf('e'), state: 'exited' },
    { id: idOf('f'), state: 'created', restoreFrom: '/somewhere' },
  ],
  images: [{ id: 'sha256:i', tags: ['a.org/app:1'], layers: [`sha256:${idOf('1')}`, `sha512:${idOf('2')}`] }],
  layers: [`sha256:${idOf('1')}`, `sha512:${idOf('2')}`],
};

beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), 'berth-findings-'));
  places = { root: join(top, 'root'), state: join(top, 'state') };
  for (const digit of ['1', '2'])
    mkdirSync(join(places.root, 'image/layers', idOf(digit), 'diff'), { recursive: true });
  chmodSync(join(places.root, 'image/layers'), 0o700);
  write(join(places.state, 'containers', CONTAINER, 'config.json'));
  write(join(places.state, 'sandboxes', POD, 'ns'));
  write(join(places.root, 'cni/results', `net-${POD}-eth0.json`));
});
afterEach(() => rmSync(top, { recursive: true }));

const found = (stored = contents): string[] =>
  storeFindings(places, stored).map(({ severity, subject, message }) => `${severity}: ${subject}: ${message}`);

test('nothing is found where all is there', () => {
  assert.deepEqual([found(), leftFindings(places, contents), databaseFindings(places, '', undefined)], [[], [], []]);
});

test('an image without one of its layers, on disk or among the rows', () => {
  const named =
    /^error: image a\.org\/app:1: 1 of its 2 layers are gone \(sha512:2+\): no container can be made of it$/;
  rmSync(join(places.root, 'image/layers', idOf('2')), { recursive: true });
  assert.match(found().join('\n'), named);
  mkdirSync(join(places.root, 'image/layers', idOf('2'), 'diff'), { recursive: true });
  const [layer = ''] = contents.layers;
  assert.match(found({ ...contents, layers: [layer] }).join('\n'), named);
});

test('a container that has lost its bundle, or whose bundle is damaged', () => {
  const containers = [...contents.containers, { id: BROKEN, state: 'created' }];
  assert.match(found({ ...contents, containers }).join('\n'), new RegExp(`^error: container ${BROKEN}: its bundle`));
  write(join(places.state, 'containers', CONTAINER, 'config.json'), '{"ociVersion":');
  assert.match(found().join('\n'), new RegExp(`^error: container ${CONTAINER}: its bundle .* is gone or damaged`));
});

test('what no record knows, wherever it is; what is no id is not ours', () => {
  write(join(places.root, 'sandboxes', LOST, 'hosts'));
  write(join(places.state, 'runtime/runc', BROKEN, 'state.json'));
  write(join(places.state, 'containers/README'));
  write(join(places.root, 'cni/results', `net-${LOST}-eth0.json`));
  assert.deepEqual(
    storeFindings(places, contents).map(({ severity, subject }) => `${severity} ${subject}`),
    ['warning orphans', 'warning networks of pods that are gone'],
  );
  assert.match(found().join('\n'), new RegExp(`no record knows sandbox ${LOST}, container ${BROKEN}, `));
});

test('networks of a berthd that was killed wait for the next one, and are nothing that a pod has lost', () => {
  write(join(places.state, 'sandboxes', LOST, 'spare'));
  write(join(places.root, 'cni/results', `net-${LOST}-eth0.json`));
  assert.deepEqual(
    leftFindings(places, contents).map(({ severity, subject, message }) => `${severity} ${subject}: ${message}`),
    [
      'info networks for pods to come: 1 were ready when berthd was killed, each with its address: it gives them back when it starts',
    ],
  );
});

test('what others may read is closed with --fix, and only then', async () => {
  const folder = join(places.root, 'image/layers');
  chmodSync(folder, 0o711);
  const told = await tellFindings(storeFindings(places, contents), false);
  assert.deepEqual(
    told.map(({ subject, canMend, mended, remedy }) => [subject, canMend, mended, remedy]),
    [[folder, true, '', `chmod 700 ${folder}`]],
  );
  assert.equal(statSync(folder).mode & 0o777, 0o711);
  assert.deepEqual(
    (await tellFindings(storeFindings(places, contents), true)).map(({ mended }) => mended),
    ['done'],
  );
  assert.deepEqual(found(), []);
});

test('what cannot be mended says why, and stops nothing', async () => {
  const fail = (): void => {
    throw new Error('no');
  };
  const findings = [
    ...databaseFindings(places, 'it is damaged', fail),
    ...databaseFindings(places, 'again', undefined),
  ];
  const told = await tellFindings(findings, true);
  assert.deepEqual(
    told.map(({ mended, canMend }) => [mended, canMend]),
    [
      ['no', true],
      ['', false],
    ],
  );
});

test('layers without an owner, and databases that were kept aside', () => {
  mkdirSync(join(places.root, 'image/layers/.tmp-1'));
  assert.match(leftFindings(places, contents)[0]?.message ?? '', /^\.tmp-1: an unpack or a removal/);
  write(join(places.root, 'berth.db.damaged-2026-01-01T00:00:00.000Z'));
  assert.match(found().join('\n'), /^info: databases in .*: 1 damaged one is kept aside/);
});

test('settings of the kernel that are too small are told with the command that changes them', () => {
  write(join(top, 'sys/net/ipv4/ip_forward'), '1\n');
  write(join(top, 'sys/fs/inotify/max_user_instances'), '64\n');
  const [finding, ...more] = sysctlFindings(top);
  assert.deepEqual(
    [finding?.severity, finding?.subject, more],
    ['warning', 'sysctl fs.inotify.max_user_instances', []],
  );
  assert.match(finding?.remedy ?? '', /^sysctl -w fs\.inotify\.max_user_instances=128,/);
});
