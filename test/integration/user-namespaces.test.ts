/** Pods with a user namespace: through berthd and each OCI runtime, as the host and the container see it. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  NamespaceMode,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  StatusRequest,
  type UserNamespace,
} from '../../proto/gen/cri/api.ts';
import { readMounts } from '../../src/sys/mount.ts';
import type { ContainerFields, PodFields } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const HOST_ID = 400_000;
const RANGE = { hostId: HOST_ID, containerId: 0, length: 65_536 };
const MAPPED: UserNamespace = { mode: NamespaceMode.POD, uids: [RANGE], gids: [RANGE] };
const IMAGE = { User: '', WorkingDir: '/new/folder' };

for (const handler of ['runc', 'crun'] as const) {
  suite(`user namespaces by ${handler}`, { timeout: patient(900_000) }, () => {
    const hugetlb = handler === 'crun' ? mountHugetlb() : undefined;
    let lab: PodLab;

    const podFields = (usernsOptions: UserNamespace, more: object = {}): PodFields => ({
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions, ...more } } },
    });
    const runMapped = async (more: object = {}): Promise<string> =>
      await lab.runPod(lab.podConfig(podFields(MAPPED, more)));
    const script = (text: string, more: ContainerFields = {}): ContainerFields => ({
      command: ['/bin/sh', '-c', text],
      ...more,
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions: MAPPED } } },
    });

    before(async () => {
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"`, image: IMAGE });
    });
    afterEach(async (t) => await lab.afterTest(t));
    after(async () => {
      await lab.close();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    test('the kubelet hears that the handler can do it', async () => {
      const { runtimeHandlers } = await lab.berthd.call(runtime.status, StatusRequest.create());
      assert.equal(runtimeHandlers.find(({ name }) => name === handler)?.features?.userNamespaces, true);
    });

    test('its layers can be told from the mount, for whom the database is lost', async () => {
      const id = await lab.start(await runMapped(), script('sleep 1000'));
      const rootfs = join(lab.berthd.root, 'snapshots', id, 'rootfs');
      const found = readMounts().find(({ mountPoint }) => mountPoint === rootfs);
      const lowers = found?.superOptions.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length);
      const links = readdirSync(join(lab.berthd.root, 'image/l'));
      assert.ok(
        lowers?.split(':').every((path) => links.includes(basename(path))),
        lowers,
      );
    });

    test('root inside is nobody outside, and files have the ids of the image inside', async () => {
      const pod = await runMapped();
      const id = await lab.start(pod, script('sleep 1000'));
      const { pid } = await lab.info(id);
      assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), new RegExp(`^Uid:\t${HOST_ID}\t`, 'm'));
      assert.equal(await lab.exec(id, 'id', '-u'), '0');
      assert.match(await lab.exec(id, 'cat', '/proc/self/uid_map'), /^ +0 +400000 +65536$/);
      assert.equal(await lab.exec(id, 'stat', '-c', '%u:%g', '/bin/busybox'), '0:0');
      assert.equal(await lab.exec(id, 'stat', '-c', '%u:%g', '/'), '0:0');
      assert.equal(await lab.exec(id, 'stat', '-c', '%u:%g', '/new/folder'), '0:0');
      assert.equal(await lab.exec(id, 'pwd'), '/new/folder');
      // What it writes belongs to it, on the host to nobody.
      await lab.exec(id, 'sh', '-c', 'echo mine > /written && chown 7:8 /written && echo x >> /etc/passwd');
      assert.equal(await lab.exec(id, 'stat', '-c', '%u:%g', '/written'), '7:8');
      const upper = join(lab.berthd.root, 'snapshots', id, 'upper');
      const facts = statSync(join(upper, 'written'));
      assert.deepEqual([facts.uid, facts.gid], [HOST_ID + 7, HOST_ID + 8]);
      assert.equal(statSync(join(upper, 'etc/passwd')).uid, HOST_ID);
      assert.equal(existsSync(join(lab.berthd.root, 'snapshots', id, 'rootfs-mapped')), false);
    });

    test('its root rules its own network, and nothing of the host', async () => {
      const pod = await runMapped();
      const id = await lab.start(pod, script('sleep 1000'));
      assert.match(await lab.exec(id, 'ip', 'addr', 'show', 'eth0'), /inet /);
      assert.equal(
        await lab.exec(id, 'sh', '-c', 'echo x > /dev/shm/x; stat -c %u:%g /dev/shm; cat /dev/shm/x'),
        '0:0\nx',
      );
      assert.match(await lab.exec(id, 'cat', '/etc/resolv.conf'), /./);
      assert.equal(await lab.exec(id, 'sh', '-c', 'echo full > /dev/full || echo still full'), 'still full');
      const refused = await lab.tryExec(id, 'sh', '-c', 'echo 1 > /proc/sys/kernel/pid_max');
      assert.notEqual(refused.exitCode, 0);
      const status = await lab.podStatus(pod);
      assert.deepEqual(status.status?.linux?.namespaces?.options?.usernsOptions, MAPPED);
    });

    test('the pod shares one process tree', async () => {
      const pod = await runMapped({ pid: NamespaceMode.POD });
      const sharing: ContainerFields = {
        command: ['sleep', '1000'],
        linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.POD, usernsOptions: MAPPED } } },
      };
      const [one, two] = [await lab.start(pod, sharing), await lab.start(pod, sharing)];
      assert.match(await lab.exec(one, 'ps'), /1 \S+ .*pause[\s\S]*sleep[\s\S]*sleep/);
      assert.ok(two);
    });

    test('volumes with mappings have the ids that they have on disk', async () => {
      const folder = join(lab.berthd.root, 'volume');
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      writeFileSync(join(folder, 'file'), 'of root', { mode: 0o600 });
      writeFileSync(join(folder, 'of-7'), 'seven', { mode: 0o600 });
      chownSync(join(folder, 'of-7'), 7, 7);
      const mounts = [
        { containerPath: '/volume', hostPath: folder, uidMappings: [RANGE], gidMappings: [RANGE] },
        {
          containerPath: '/one',
          hostPath: join(folder, 'of-7'),
          readonly: true,
          uidMappings: [RANGE],
          gidMappings: [RANGE],
        },
        { containerPath: '/plain', hostPath: folder },
      ];
      const pod = await runMapped();
      const id = await lab.start(pod, script('sleep 1000', { mounts }));
      assert.equal(await lab.exec(id, 'cat', '/volume/file'), 'of root');
      assert.equal(await lab.exec(id, 'stat', '-c', '%u', '/volume', '/volume/of-7', '/one'), '0\n7\n7');
      assert.equal(await lab.exec(id, 'stat', '-c', '%u', '/plain'), '65534');
      await lab.exec(id, 'sh', '-c', 'echo new > /volume/new');
      assert.equal(statSync(join(folder, 'new')).uid, 0);
      assert.notEqual((await lab.tryExec(id, 'sh', '-c', 'echo no >> /one')).exitCode, 0);
      assert.deepEqual(
        readdirSync(lab.berthd.state).includes('volumes') ? readdirSync(join(lab.berthd.state, 'volumes')) : [],
        [],
      );
      assert.deepEqual(
        readMounts().filter(({ mountPoint }) => mountPoint.includes('/volumes/')),
        [],
      );
    });

    test("on the host's network", async () => {
      const pod = await runMapped({ network: NamespaceMode.NODE });
      const fields = script('sleep 1000');
      const id = await lab.start(pod, {
        ...fields,
        linux: {
          securityContext: {
            namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER, usernsOptions: MAPPED },
          },
        },
      });
      assert.equal(
        await lab.exec(id, 'readlink', '/proc/self/ns/net'),
        execFileSync('readlink', ['/proc/self/ns/net'], { encoding: 'utf8' }).trim(),
      );
      assert.notEqual((await lab.tryExec(id, 'ip', 'link', 'add', 'd0', 'type', 'bridge')).exitCode, 0);
    });

    test('a restart of berthd keeps it', async () => {
      const pod = await runMapped();
      const id = await lab.start(pod, script('sleep 1000'));
      await lab.berthd.end('SIGKILL');
      await lab.berthd.start();
      assert.equal(await lab.exec(id, 'id', '-u'), '0');
      const second = await lab.start(pod, script('sleep 1000'));
      assert.match(await lab.exec(second, 'cat', '/proc/self/uid_map'), /400000/);
    });

    test('what cannot be is refused, and leaves nothing', async () => {
      const refusals: [UserNamespace, object, RegExp][] = [
        [{ ...MAPPED, uids: [RANGE, RANGE] }, {}, /userns_options\.uids: must be one mapping, not 2/],
        [{ ...MAPPED, uids: [] }, {}, /userns_options\.uids: must be one mapping, not 0/],
        [{ ...MAPPED, gids: [{ ...RANGE, hostId: 1 }] }, {}, /userns_options\.gids: must be the same as uids/],
        [{ ...MAPPED, mode: NamespaceMode.CONTAINER }, {}, /userns_options\.mode: must be POD or NODE/],
        [{ ...MAPPED, mode: NamespaceMode.TARGET }, {}, /userns_options\.mode/],
        [MAPPED, { ipc: NamespaceMode.NODE }, /namespace_options\.ipc: must not be NODE/],
        [MAPPED, { pid: NamespaceMode.NODE }, /namespace_options\.pid: must not be NODE/],
      ];
      for (const [options, more, expected] of refusals) {
        const config = lab.podConfig(podFields(options, more));
        const { code, details } = await lab.berthd.fails(
          runtime.runPodSandbox,
          RunPodSandboxRequest.create({ config, runtimeHandler: '' }),
        );
        assert.match(details, expected);
        assert.equal(code, status.INVALID_ARGUMENT);
      }
      const plain = await lab.runPod();
      assert.match((await lab.refused(plain, script('true'))).details, /userns_options: must be the sandbox's/);
      const mounts = [{ containerPath: '/v', hostPath: '/tmp', uidMappings: [RANGE], gidMappings: [RANGE] }];
      assert.match((await lab.refused(plain, { mounts })).details, /uid_mappings: need a pod with a user namespace/);
    });
  });
}
