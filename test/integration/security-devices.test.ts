/** CDI devices and hooks from folders, as the program in the container finds them; by each OCI runtime. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { AdminService, CheckConfigRequest } from '../../proto/gen/berth/admin.ts';
import { NamespaceMode, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import type { ContainerFields } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const script = (text: string): ContainerFields => ({ command: ['/bin/sh', '-c', text] });
const skip = existsSync('/dev/fuse') ? false : 'no /dev/fuse here, which stands for a device';

for (const handler of ['runc', 'crun'] as const) {
  suite(`devices and hooks by ${handler}`, { timeout: patient(900_000) }, () => {
    const hugetlb = handler === 'crun' ? mountHugetlb() : undefined;
    const folder = `/run/berth-devices-${process.pid}`;
    const cdi = join(folder, 'cdi');
    const hooks = join(folder, 'hooks');
    let lab: PodLab;
    let pod: string;

    before(async () => {
      for (const path of [cdi, hooks]) mkdirSync(path, { recursive: true });
      writeFileSync(join(folder, 'library'), 'of the vendor\n');
      // Notes when it ran and what it was told, which is the container's state.
      writeFileSync(join(folder, 'hook'), `#!/bin/sh\necho "$1 $NOTE $(cat)" >> ${folder}/notes\n`, { mode: 0o755 });
      writeFileSync(join(folder, 'failing'), '#!/bin/sh\necho no luck >&2\nexit 3\n', { mode: 0o755 });
      lab = await PodLab.start({
        config: `[runtime]\ndefault_runtime = "${handler}"\ncdi_spec_dirs = ["${cdi}"]\nhooks_dirs = ["${hooks}"]`,
      });
      pod = await lab.runPod(lab.podConfig({ annotations: { 'example.com/noted': 'yes' } }));
    });
    afterEach(async (t) => {
      for (const path of [cdi, hooks]) {
        rmSync(path, { recursive: true });
        mkdirSync(path);
      }
      rmSync(join(folder, 'notes'), { force: true });
      await lab.afterTest(t, [pod]);
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
    });
    after(async () => {
      await lab.close();
      await hugetlb?.[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true });
    });

    const notes = (): string[] =>
      existsSync(join(folder, 'notes')) ? readFileSync(join(folder, 'notes'), 'utf8').trim().split('\n') : [];
    const writeCdi = (name: string, devices: Readonly<Record<string, object>>, containerEdits?: object): void =>
      writeFileSync(
        join(cdi, name),
        JSON.stringify({
          cdiVersion: '0.6.0',
          kind: 'example.com/device',
          devices: Object.entries(devices as Readonly<Record<string, unknown>>).map(([device, edits]) => ({
            name: device,
            containerEdits: edits,
          })),
          ...(containerEdits ? { containerEdits } : {}),
        }),
      );
    const writeHook = (name: string, when: object, stages: readonly string[], program = 'hook'): void => {
      const hook = { path: join(folder, program), args: [program, name], env: ['NOTE=noted', 'PATH=/usr/bin:/bin'] };
      writeFileSync(join(hooks, name), JSON.stringify({ version: '1.0.0', hook, when, stages }));
    };

    test('a CDI device brings its node, variables, files, groups and hooks', { skip }, async () => {
      writeCdi(
        'a.json',
        {
          one: {
            deviceNodes: [{ path: '/dev/one', hostPath: '/dev/fuse', permissions: 'r' }],
            env: ['ONE=1', 'KIND=one'],
            additionalGids: [4321],
          },
          two: { env: ['TWO=2'] },
        },
        {
          env: ['KIND=all'],
          mounts: [
            { hostPath: join(folder, 'library'), containerPath: '/lib/vendor/library', options: ['ro', 'bind'] },
          ],
          hooks: [
            {
              hookName: 'createRuntime',
              path: join(folder, 'hook'),
              args: ['hook', 'cdi'],
              env: ['NOTE=x', 'PATH=/bin'],
            },
          ],
        },
      );
      const fields: ContainerFields = {
        CDIDevices: [{ name: 'example.com/device=one' }],
        annotations: { 'cdi.k8s.io/claim': 'example.com/device=two,example.com/device=one' },
        linux: { securityContext: { runAsUser: { value: 1000n } } },
      };
      const id = await lab.start(pod, fields);
      assert.match(await lab.exec(id, 'ls', '-ln', '/dev/one'), /^c\S+ +1 1000 +1000 +10, +229 /);
      await lab.exec(id, 'sh', '-c', ': < /dev/one');
      assert.match((await lab.tryExec(id, 'sh', '-c', ': > /dev/one')).text, /Operation not permitted/);
      const env = (await lab.exec(id, 'env')).split('\n');
      for (const line of ['ONE=1', 'TWO=2', 'KIND=one']) assert.ok(env.includes(line), line);
      assert.equal(await lab.exec(id, 'cat', '/lib/vendor/library'), 'of the vendor');
      assert.match((await lab.tryExec(id, 'sh', '-c', 'echo > /lib/vendor/library')).text, /Read-only|Permission/);
      assert.match(await lab.exec(id, 'id', '-G'), /\b4321\b/);
      assert.ok((await lab.status(id)).user?.linux?.supplementalGroups.includes(4321n));
      assert.match(notes().join(), new RegExp(`^cdi x .*"id": *"${id}"`), 'once, though two devices need it');
      assert.equal(notes().length, 1);
    });

    test('a CDI device that is not there, and one that came a moment ago', async () => {
      const fields = { CDIDevices: [{ name: 'example.com/device=one' }], ...script('echo $ONE') };
      writeFileSync(join(cdi, 'broken.yaml'), 'a: [');
      const refused = await lab.refused(pod, fields);
      assert.equal(refused.code, status.FAILED_PRECONDITION);
      assert.match(
        refused.details,
        /CDI_devices\[0\]\.name: no file in .* has example\.com\/device=one; .*broken\.yaml/,
      );
      const { findings } = await lab.berthd.call(AdminService.checkConfig, CheckConfigRequest.create());
      assert.ok(findings.some(({ subject }) => subject === join(cdi, 'broken.yaml')));
      const yaml =
        'cdiVersion: 0.5.0\nkind: example.com/device\ndevices:\n- name: one\n  containerEdits:\n    env: [ONE=yaml]\n';
      writeFileSync(join(cdi, 'good.yaml'), yaml);
      assert.equal(await lab.output(pod, fields), 'yaml');
      const none = await lab.refused(pod, { CDIDevices: [{ name: 'one' }] });
      assert.equal(none.code, status.INVALID_ARGUMENT);
    });

    test('hooks run at their stages, for the containers that they are for', async () => {
      writeHook('20-always.json', { always: true }, ['poststop', 'createRuntime', 'poststart']);
      writeHook('10-annotated.json', { annotations: { '^example\\.com/noted$': '^yes$' } }, ['createRuntime']);
      writeHook('30-command.json', { commands: ['^/bin/true$'] }, ['createRuntime']);
      writeHook('40-mounts.json', { hasBindMounts: true }, ['createRuntime']);
      const id = await lab.create(pod);
      const stages = () => notes().map((line) => line.split(' ', 2).join(' '));
      assert.deepEqual(stages().slice(0, 2), ['10-annotated.json noted', '20-always.json noted']);
      await lab.berthd.call(runtime.startContainer, { containerId: id });
      // Before 1.3, runc runs these hooks when it has created the container.
      assert.deepEqual(stages().slice(2), ['20-always.json noted']);
      await lab.berthd.call(runtime.removeContainer, { containerId: id });
      assert.deepEqual(stages().slice(3), ['20-always.json noted']);
      const statuses = notes().map((line) => /"status": *"(\w+)"/.exec(line)?.[1]);
      assert.equal(statuses[3], 'stopped');
      rmSync(join(folder, 'notes'));
      await lab.output(pod, {
        command: ['/bin/true'],
        mounts: [{ containerPath: '/data', hostPath: folder, readonly: true }],
      });
      assert.deepEqual(
        new Set(stages()),
        new Set(['10-annotated.json noted', '20-always.json noted', '30-command.json noted', '40-mounts.json noted']),
      );
    });

    test('a hook that fails keeps the container from being made, and nothing is left of it', async () => {
      writeHook('bad.json', { always: true }, ['createRuntime'], 'failing');
      const refused = await lab.refused(pod, {});
      assert.match(refused.details, /hook/i);
      writeHook('bad.json', { always: true }, ['createRuntime'], 'no-such-program');
      assert.match((await lab.refused(pod, {})).details, /no-such-program|hook|No such file/);
    });

    test('a file that is no hook is left out, and told', async () => {
      writeFileSync(join(hooks, 'broken.json'), '{');
      assert.equal(await lab.output(pod, script('echo ran')), 'ran');
      assert.match(lab.berthd.wholeLog(), /hooks that cannot be used are left out/);
      const { findings } = await lab.berthd.call(AdminService.checkConfig, CheckConfigRequest.create());
      assert.ok(findings.some(({ subject }) => subject === join(hooks, 'broken.json')));
    });

    test("devices are nobody's but the container's that has them", { skip }, async () => {
      writeCdi('a.json', { one: { deviceNodes: [{ path: '/dev/one', hostPath: '/dev/fuse' }] } });
      const trusted = { privileged: true, namespaceOptions: { pid: NamespaceMode.CONTAINER } };
      const other = await lab.runPod(lab.podConfig({ linux: { securityContext: trusted } }));
      const fields = {
        CDIDevices: [{ name: 'example.com/device=one' }],
        linux: { securityContext: { privileged: true } },
      };
      await lab.exec(await lab.start(other, fields), 'sh', '-c', ': < /dev/one');
      const plain = await lab.start(pod, {
        linux: { securityContext: { capabilities: { addCapabilities: ['MKNOD'] } } },
      });
      await lab.exec(plain, 'mknod', '/tmp/one', 'c', '10', '229');
      assert.match((await lab.tryExec(plain, 'sh', '-c', ': < /tmp/one')).text, /Operation not permitted/);
    });
  });
}
