/** SELinux labels: on files by the kernel's own attribute, and on containers where the kernel has SELinux. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { relabelFile, relabelTree } from '../../src/runtime/relabel.ts';
import { AT_FDCWD, closeFd, O_PATH, openat } from '../../src/sys/at.ts';
import { lgetxattrat } from '../../src/sys/xattr.ts';
import type { ContainerFields } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const isOn = existsSync('/sys/fs/selinux/enforce');
const never = new AbortController().signal;
const LABEL = 'system_u:object_r:container_file_t:s0:c1,c2';

function labelOf(folder: string, name: string): string | undefined {
  const fd = openat(AT_FDCWD, folder, O_PATH);
  try {
    return lgetxattrat(fd, name, 'security.selinux')?.toString();
  } finally {
    closeFd(fd);
  }
}

// With SELinux on, only labels of the policy can be written; the walk is the same.
suite('relabelling a volume', { skip: isOn && 'this kernel takes only labels that its policy has' }, () => {
  let top: string;
  before(() => {
    top = mkdtempSync(join(tmpdir(), 'berth-relabel-'));
  });
  after(() => rmSync(top, { recursive: true }));

  test('everything in it gets the label, and nothing that its links lead to', async () => {
    const [volume, outside] = [join(top, 'volume'), join(top, 'outside')];
    mkdirSync(join(volume, 'a/b'), { recursive: true });
    mkdirSync(outside);
    writeFileSync(join(outside, 'file'), '');
    for (let n = 0; n < 1200; n++) writeFileSync(join(volume, 'a/b', String(n)), '');
    symlinkSync(outside, join(volume, 'a/link'));
    execFileSync('mkfifo', [join(volume, 'a/fifo')]);
    execFileSync('sh', ['-c', 'touch "$1/$(printf "\\\\377")"', 'sh', join(volume, 'a')]);
    await relabelTree(volume, LABEL, never);
    for (const [folder, name] of [
      [top, 'volume'],
      [volume, 'a'],
      [join(volume, 'a'), 'b'],
      [join(volume, 'a'), 'fifo'],
      [join(volume, 'a/b'), '0'],
      [join(volume, 'a/b'), '1199'],
      [join(volume, 'a'), 'link'],
    ] as const)
      assert.equal(labelOf(folder, name), `${LABEL}\0`, name);
    assert.deepEqual([labelOf(top, 'outside'), labelOf(outside, 'file')], [undefined, undefined]);
  });

  test('a single file, and what can have no label', async () => {
    writeFileSync(join(top, 'file'), '');
    await relabelTree(join(top, 'file'), LABEL, never);
    assert.equal(labelOf(top, 'file'), `${LABEL}\0`);
    relabelFile(join(top, 'file'), 'other');
    assert.equal(labelOf(top, 'file'), 'other\0');
    await relabelTree('/proc/self/net', LABEL, never);
    await assert.rejects(relabelTree(join(top, 'none/file'), LABEL, never), { kind: 'notFound' });
  });

  test('what the whole host needs is refused, and so is a tree without end', async () => {
    for (const path of ['/', '/etc', '/var/lib'])
      await assert.rejects(relabelTree(path, LABEL, never), { kind: 'precondition', message: /belongs to the host/ });
    const deep = join(top, 'deep');
    mkdirSync(join(deep, ...Array<string>(500).fill('d')), { recursive: true });
    await assert.rejects(relabelTree(deep, LABEL, never), { kind: 'precondition', message: /^relabel / });
  });

  test('it ends with its signal', async () => {
    const many = join(top, 'many');
    mkdirSync(many);
    for (let n = 0; n < 2000; n++) writeFileSync(join(many, String(n)), '');
    const aborted = AbortSignal.abort(new Error('enough'));
    await assert.rejects(relabelTree(many, LABEL, aborted), /relabel/);
  });
});

suite('containers and SELinux', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start({ config: '[runtime]\ndefault_runtime = "runc"' });
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());
  const show: ContainerFields = { command: ['cat', '/proc/self/attr/current'] };

  test('without SELinux a label that is demanded is refused, and leaves nothing', {
    skip: isOn && 'this kernel has it',
  }, async () => {
    const selinuxOptions = { user: '', role: '', type: 'container_t', level: 's0:c1,c2' };
    const security = { linux: { securityContext: { selinuxOptions } } };
    const said = /selinux_options: SELinux label ::container_t:s0:c1,c2 is asked for, and this kernel has no SELinux/;
    const refused = await lab.berthd.fails(runtime.runPodSandbox, {
      config: lab.podConfig(security),
      runtimeHandler: '',
    });
    assert.deepEqual([refused.code, said.test(refused.details)], [status.FAILED_PRECONDITION, true], refused.details);
    const pod = await lab.runPod();
    const container = await lab.refused(pod, security);
    assert.deepEqual([container.code, said.test(container.details)], [status.FAILED_PRECONDITION, true]);
    assert.deepEqual((await lab.berthd.call(runtime.listContainers, { filter: undefined })).containers, []);
  });

  test('without SELinux one that asks for no confinement runs, and its volumes stay as they are', {
    skip: isOn && 'this kernel has it',
  }, async () => {
    const selinuxOptions = { user: '', role: '', type: 'spc_t', level: 's0' };
    const pod = await lab.runPod(lab.podConfig({ linux: { securityContext: { selinuxOptions } } }));
    const volume = mkdtempSync(join(lab.berthd.root, 'volume-'));
    const mounts = [{ containerPath: '/data', hostPath: volume, selinuxRelabel: true }];
    const fields: ContainerFields = {
      command: ['echo', 'ran'],
      mounts,
      linux: { securityContext: { selinuxOptions } },
    };
    assert.equal(await lab.output(pod, fields), 'ran');
    assert.equal(labelOf(lab.berthd.root, volume.split('/').at(-1) ?? ''), undefined);
  });

  test('pods are kept apart by their levels, and a volume goes with its container', {
    skip: isOn ? false : 'this kernel has no SELinux',
  }, async () => {
    const [one, two] = [await lab.runPod(), await lab.runPod()];
    const clean = (text: string): string => text.replace(/\0?\s*$/, '');
    const first = clean(await lab.output(one, show));
    assert.match(first, /:container_t:s0:c\d+,c\d+$/);
    assert.equal(clean(await lab.output(one, show)), first, 'the same for all of a pod');
    assert.notEqual(clean(await lab.output(two, show)), first);
    const volume = mkdtempSync(join(lab.berthd.root, 'volume-'));
    const mounts = [{ containerPath: '/data', hostPath: volume, selinuxRelabel: true }];
    const id = await lab.start(one, { mounts });
    await lab.exec(
      id,
      'sh',
      '-c',
      'echo x > /data/file && cat /etc/hosts /etc/resolv.conf /etc/hostname && echo x > /dev/shm/x',
    );
    const level = first.split(':').slice(3).join(':');
    const label = labelOf(lab.berthd.root, volume.split('/').at(-1) ?? '') ?? '';
    assert.ok(label.includes('container_file_t') && label.includes(level), label);
    await lab.berthd.call(runtime.removeContainer, { containerId: id });
  });
});
