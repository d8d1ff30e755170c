import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';

import { type Outcome, readOutcome } from './report.ts';

const FOLDERS = '/go/pkg/mod/sigs.k8s.io/cri-tools@v1.36.0';

function read(t: TestContext, specs: readonly object[], more: object = {}): Outcome {
  const folder = mkdtempSync(join(tmpdir(), 'berth-report-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'report.json');
  const suite = { RunTime: 5e9, SuiteConfig: { RandomSeed: 7 }, SpecialSuiteFailureReasons: null, ...more };
  writeFileSync(file, JSON.stringify([{ ...suite, SpecReports: specs }]));
  return readOutcome(file);
}

function spec(name: string, state: string, message?: string): object {
  const base = { ContainerHierarchyTexts: ['Pod'], LeafNodeType: 'It', LeafNodeText: name, State: state, RunTime: 1e9 };
  const Location = { FileName: `${FOLDERS}/pkg/validate/pod.go`, LineNumber: 12 };
  return message === undefined ? base : { ...base, Failure: { Message: message, Location } };
}

test('counts what passed, and tells what failed and where', (t) => {
  const outcome = read(t, [spec('starts', 'passed'), spec('stops', 'failed', 'it did not'), spec('hangs', 'timedout')]);
  assert.equal(outcome.seed, 7);
  assert.equal(outcome.seconds, 5);
  assert.equal(outcome.passed, 1);
  assert.deepEqual(outcome.failed, [
    { name: 'Pod stops', message: 'it did not', place: 'pkg/validate/pod.go:12' },
    { name: 'Pod hangs', message: 'timedout', place: ':0' },
  ]);
});

test('tells specs that skip themselves from those that were filtered out', (t) => {
  const outcome = read(t, [spec('AppArmor', 'skipped', 'disabled on this host'), spec('benchmark', 'skipped')]);
  assert.deepEqual(outcome.skipped, [{ name: 'Pod AppArmor', reason: 'disabled on this host' }]);
  assert.equal(outcome.passed, 0);
});

test('a hook of the whole suite that fails is a failure, and so is a suite that says so', (t) => {
  const hook = {
    ...spec('', 'panicked', 'no images file'),
    LeafNodeType: 'BeforeSuite',
    ContainerHierarchyTexts: null,
  };
  assert.deepEqual(
    read(t, [hook]).failed.map(({ name }) => name),
    ['BeforeSuite'],
  );
  assert.deepEqual(
    read(t, [], { SpecialSuiteFailureReasons: ['No specs ran'] }).failed.map(({ message }) => message),
    ['No specs ran'],
  );
});

test('leaves the fields of an error out, and keeps its text', (t) => {
  const message =
    'Unexpected error:\n    <*status.Error>: \n    desc = not there\n    {\n        s: {\n        },\n    }\noccurred';
  const [failed] = read(t, [spec('stops', 'failed', message)]).failed;
  assert.equal(failed?.message, 'Unexpected error:\n    <*status.Error>: \n    desc = not there\noccurred');
});
