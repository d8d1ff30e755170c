import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { xattrMarks } from '../../src/runtime/cgroups/cgroup-marks.ts';
import { CgroupTree } from '../../src/runtime/cgroups/cgroup-tree.ts';
import { CgroupfsDriver } from '../../src/runtime/cgroups/cgroupfs-driver.ts';
import { cgroupFile, cgroupOf, readHierarchies } from '../../src/runtime/cgroups/hierarchies.ts';
import { SOON_MS } from '../harness/patience.ts';
import { makeBundle } from './oci-bundle.ts';

// The cgroupfs driver on the hierarchies that this machine really has. Needs root.

const hierarchies = readHierarchies();
const cgroups = new CgroupfsDriver(new CgroupTree(hierarchies, xattrMarks));
const none = new AbortController().signal;
const top = `/berth-test-cgroups-${process.pid}`;
const children: ChildProcess[] = [];
let folder: string;

const placesOf = (path: string) =>
  hierarchies.map((hierarchy) => cgroupFile(hierarchy, path)).filter((place) => existsSync(place));

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-cgroups-'));
});
afterEach(async () => {
  await Promise.all(children.splice(0).map(end));
  assert.deepEqual(placesOf(top), [], 'a test left its cgroups');
});
after(() => rmSync(folder, { recursive: true }));

function startProcess(command: string, ...args: string[]): ChildProcess & { readonly pid: number } {
  const child = spawn(command, args, { stdio: 'ignore' });
  children.push(child);
  assert.ok(child.pid);
  return Object.assign(child, { pid: child.pid });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

test('a sandbox cgroup is made in every hierarchy, takes a process, and goes with the parents that Berth made', async () => {
  const cgroup = await cgroups.createSandbox({ parent: `${top}/pod`, sandboxId: 'one' });
  assert.equal(placesOf(cgroup.path).length, hierarchies.length);
  const pause = startProcess('sleep', '60');
  await cgroups.addProcess(cgroup, pause.pid);
  await cgroups.addProcess(cgroup, pause.pid);
  const where = readFileSync(`/proc/${pause.pid}/cgroup`, 'utf8');
  for (const file of cgroups.procsFiles(cgroup)) assert.equal(readFileSync(file, 'utf8'), `${pause.pid}\n`);
  assert.ok(
    hierarchies.filter((hierarchy) => cgroupOf(where, hierarchy) === cgroup.path).length >=
      cgroups.procsFiles(cgroup).length,
  );

  await assert.rejects(
    cgroups.removeSandbox(cgroup, none),
    new RegExp(`it still holds process ${pause.pid} \\(sleep\\)`),
  );
  assert.equal(placesOf(`${top}/pod`).length, hierarchies.length, 'the parent stays while the cgroup does');
  await end(pause);
  await cgroups.removeSandbox(cgroup, none);
  await cgroups.removeSandbox(cgroup, none);
});

test('a parent that was there before stays, and one that is shared goes with its last cgroup', async () => {
  for (const hierarchy of hierarchies) mkdirSync(cgroupFile(hierarchy, top));
  try {
    const first = await cgroups.createSandbox({ parent: `${top}/shared`, sandboxId: 'first' });
    const second = await cgroups.createSandbox({ parent: `${top}/shared`, sandboxId: 'second' });
    await cgroups.removeSandbox(first, none);
    assert.equal(placesOf(`${top}/shared`).length, hierarchies.length);
    await cgroups.removeSandbox(second, none);
    assert.equal(placesOf(`${top}/shared`).length, 0);
    assert.equal(placesOf(top).length, hierarchies.length, 'not made by Berth');
  } finally {
    for (const place of placesOf(top)) rmdirSync(place);
  }
});

test('a thread that enters the cgroup has its children born there, and comes back', async () => {
  const cgroup = await cgroups.createSandbox({ parent: top, sandboxId: 'thread' });
  const before = readFileSync('/proc/thread-self/cgroup', 'utf8');
  const placement = cgroups.threadPlacement(cgroup);
  for (const file of placement.enter) writeFileSync(file, '0');
  const pause = startProcess('sleep', '60');
  for (const file of placement.leave) writeFileSync(file, '0');
  for (const file of placement.procs) writeFileSync(file, String(pause.pid));
  assert.equal(readFileSync('/proc/thread-self/cgroup', 'utf8'), before);
  for (const file of cgroups.procsFiles(cgroup)) assert.equal(readFileSync(file, 'utf8'), `${pause.pid}\n`, file);
  await end(pause);
  await cgroups.removeSandbox(cgroup, none);
});

test('killAll ends what is in the cgroup and below', async () => {
  const container = cgroups.container(top, 'killed');
  const cgroup = cgroups.sandboxCgroup(top, 'killed');
  await cgroups.createSandbox({ parent: top, sandboxId: 'killed' });
  const inner = `${cgroup.path}/inner`;
  const tree = new CgroupTree(hierarchies, xattrMarks);
  const processes = [startProcess('sleep', '60'), startProcess('sleep', '60')];
  // Before the inner one is made: on v2 what has processes hands no controllers down, and the other way round.
  await tree.addProcess(cgroup.path, processes[0]?.pid ?? 0);
  await tree.make(inner);
  await tree.addProcess(inner, processes[1]?.pid ?? 0);
  assert.deepEqual(container.pids().sort(), processes.map(({ pid }) => pid).sort());
  const ended = processes.map((child) => once(child, 'exit'));
  container.killAll();
  await Promise.all(ended);
  await container.remove(none);
  await container.remove(none);
  await cgroups.removeSandbox(cgroup, none);
});

test('runc puts its container where Berth looks for it, in every hierarchy, and Berth counts its OOM kills', async () => {
  const sandbox = await cgroups.createSandbox({ parent: `${top}/pod`, sandboxId: 'runc' });
  const id = `berth-test-${process.pid}`;
  const container = cgroups.container(`${top}/pod`, id);
  const bundle = makeBundle(folder, {
    // The child is the victim; the container's first process survives it.
    args: ['sh', '-c', 'sh -c "a=x; while :; do a=\\$a\\$a; done"; cat'],
    cgroupsPath: cgroups.containerCgroupsPath(`${top}/pod`, id),
    memoryLimitBytes: 16 << 20,
  });
  const runc = (...args: string[]) =>
    execFileSync('runc', ['--root', join(folder, 'state'), ...args], { stdio: 'ignore' });
  runc('create', '--bundle', bundle, id);
  try {
    assert.equal(placesOf(container.path).length, hierarchies.length);
    assert.equal(container.pids().length, 1);
    assert.equal(container.oomKills(), 0);
    runc('start', id);
    const deadline = Date.now() + SOON_MS;
    // No event to wait for here: the count is what is tested.
    while (container.oomKills() === 0 && Date.now() < deadline) await new Promise(setImmediate);
    assert.equal(container.oomKills(), 1);
  } finally {
    runc('delete', '--force', id);
  }
  assert.throws(() => container.oomKills(), { kind: 'notFound' });
  await cgroups.removeSandbox(sandbox, none);
});
