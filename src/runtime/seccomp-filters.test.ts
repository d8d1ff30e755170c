import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { Command, CommandResult } from '../proc/command.ts';
import { readProcessStartTime } from '../sys/process.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import type { OciSpec } from './oci-spec.ts';
import { SeccompFilters } from './seccomp-filters.ts';

const never = new AbortController().signal;
const init = { pid: process.pid, startTime: readProcessStartTime(process.pid) ?? 0 };
let stateDir: string;
let handler: { path: string };
let readByKernel: () => Promise<Partial<CommandResult>>;
let reads: number;

beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), 'berth-filters-'));
  handler = { path: join(stateDir, 'runc') };
  writeFileSync(handler.path, '');
  readByKernel = async () => ({ exitCode: 0, stdout: Buffer.alloc(16, 7) });
  reads = 0;
});
afterEach(() => rmSync(stateDir, { recursive: true }));

function open(): SeccompFilters {
  const run = async (_command: Command): Promise<CommandResult> => {
    reads += 1;
    const plain = { exitCode: 0, signal: undefined, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
    return { ...plain, truncated: false, durationMs: 1, ...(await readByKernel()) };
  };
  return new SeccompFilters({ stateDir, filterReaderPath: '/reader', processes: { run }, log: silentLogger });
}

const profile = (call = 'mount'): OciSeccomp => ({
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [{ names: [call], action: 'SCMP_ACT_ERRNO' }],
});
// Only what decides: the section, and whether the container has processes of its own.
const specOf = (seccomp: OciSeccomp): OciSpec =>
  ({ linux: { seccomp, namespaces: [{ type: 'pid' }] } }) as unknown as OciSpec;

async function learn(filters: SeccompFilters, seccomp = profile()): Promise<void> {
  const missing = filters.missing(specOf(seccomp), handler);
  if (missing) await filters.learn(missing, init, never);
}

const kept = (): string[] => readdirSync(join(stateDir, 'seccomp')).map((name) => join(stateDir, 'seccomp', name));

test('a filter is learned once, and an earlier berthd has learned it too', async () => {
  const filters = open();
  assert.equal(filters.find(profile(), handler), undefined);
  await learn(filters);
  await learn(filters);
  assert.equal(reads, 1);
  const { file, flags } = filters.find(profile(), handler) ?? assert.fail();
  assert.deepEqual([readFileSync(file), flags], [Buffer.alloc(16, 7), 0]);
  assert.deepEqual(open().find(profile(), handler), { file, flags });
  assert.equal(filters.find(profile('umount'), handler), undefined);
});

test('what is left of a filter is none, neither at the start nor later, and the next container brings it', async () => {
  const filters = open();
  await learn(filters);
  const [file = ''] = kept();
  truncateSync(file, 8);
  assert.equal(filters.find(profile(), handler), undefined);
  assert.equal(open().find(profile(), handler), undefined);
  assert.deepEqual(kept(), []);
  await learn(filters);
  assert.ok(filters.find(profile(), handler));
});

test('an upgrade in between, or after, makes a filter unknown', async () => {
  const filters = open();
  const missing = filters.missing(specOf(profile()), handler) ?? assert.fail();
  utimesSync(handler.path, 0, 0);
  await filters.learn(missing, init, never);
  assert.equal(filters.find(profile(), handler), undefined);
  await learn(filters);
  assert.ok(filters.find(profile(), handler));
  utimesSync(handler.path, 1, 1);
  assert.equal(filters.find(profile(), handler), undefined);
});

test('a kernel that gives none out is not asked for a while; what fails otherwise does not count', async () => {
  const filters = open();
  readByKernel = async () => {
    throw new BerthError('exhausted', 'no room for another process');
  };
  for (let tries = 0; tries < 9; tries += 1) await learn(filters);
  assert.equal(reads, 9);
  readByKernel = async () => ({ exitCode: 1 });
  for (let tries = 0; tries < 9; tries += 1) await learn(filters);
  assert.equal(reads, 9 + 5);
  assert.equal(filters.missing(specOf(profile()), handler), undefined);
});

test('a process that is another one by now teaches nothing', async () => {
  const filters = open();
  const missing = filters.missing(specOf(profile()), handler) ?? assert.fail();
  await filters.learn(missing, { ...init, startTime: init.startTime + 1 }, never);
  assert.equal(filters.find(profile(), handler), undefined);
});

test('of too many filters the one that was not used for longest goes', async () => {
  const filters = open();
  for (let at = 0; at < 128; at += 1) {
    await learn(filters, profile(`call-${at}`));
    assert.ok(filters.find(profile('call-0'), handler));
  }
  await learn(filters, profile('one-more'));
  assert.ok(filters.find(profile('call-0'), handler));
  assert.equal(filters.find(profile('call-1'), handler), undefined);
  assert.equal(kept().length, 128);
});

test('a folder that cannot be used keeps nobody from starting', async () => {
  writeFileSync(join(stateDir, 'seccomp'), '');
  await learn(open());
  assert.equal(open().find(profile(), handler), undefined);
  rmSync(join(stateDir, 'seccomp'));
  mkdirSync(join(stateDir, 'seccomp', 'x.new'), { recursive: true });
  await learn(open());
  assert.ok(open().find(profile(), handler));
});

test('a runtime that cannot be looked at has no filter', () => {
  const filters = open();
  handler = { path: join(stateDir, 'loop') };
  symlinkSync('loop', handler.path);
  assert.equal(filters.missing(specOf(profile()), handler), undefined);
  assert.equal(filters.find(profile(), handler), undefined);
});
