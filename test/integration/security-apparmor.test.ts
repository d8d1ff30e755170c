/** AppArmor: profiles confine containers where the kernel has it; where it has not, who demands one is told. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  SecurityProfile_ProfileType as ProfileType,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import type { ContainerFields } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

type Security = NonNullable<NonNullable<ContainerFields['linux']>['securityContext']>;

const ENABLED = '/sys/module/apparmor/parameters/enabled';
const isOn = existsSync(ENABLED) && readFileSync(ENABLED, 'utf8').startsWith('Y');
const skip = isOn ? false : 'this kernel has no AppArmor';
const secured = (securityContext: Security): ContainerFields => ({ linux: { securityContext } });
const local = { profileType: ProfileType.Localhost, localhostRef: 'berth-test-no-tmp' };

for (const handler of ['runc', 'crun'] as const) {
  suite(`AppArmor by ${handler}`, { timeout: patient(600_000) }, () => {
    const hugetlb = handler === 'crun' ? mountHugetlb() : undefined;
    let lab: PodLab;
    let pod: string;
    before(async () => {
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"` });
      pod = await lab.runPod();
    });
    afterEach(async (t) => {
      await lab.afterTest(t, [pod]);
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
    });
    after(async () => {
      await lab.close();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const confinement = async (security: Security): Promise<string> =>
      (await lab.output(pod, { command: ['cat', '/proc/self/attr/current'], ...secured(security) })).replace(
        /\0?\s*$/,
        '',
      );

    test('without AppArmor a demand is refused, and all else runs', {
      skip: isOn && 'this kernel has it',
    }, async () => {
      for (const security of [{ apparmor: local }, { apparmorProfile: 'localhost/berth-test-no-tmp' }]) {
        const refused = await lab.refused(pod, secured(security));
        assert.equal(refused.code, status.FAILED_PRECONDITION);
        assert.match(
          refused.details,
          /AppArmor profile berth-test-no-tmp is asked for, and this kernel has no AppArmor/,
        );
      }
      for (const apparmor of [
        undefined,
        { profileType: ProfileType.RuntimeDefault },
        { profileType: ProfileType.Unconfined },
      ])
        assert.equal(await lab.output(pod, { command: ['echo', 'ran'], ...secured({ apparmor }) }), 'ran');
    });

    test('the built-in profile is the default, and unconfined is none', { skip }, async () => {
      for (const security of [
        {},
        { apparmor: { profileType: ProfileType.RuntimeDefault } },
        { apparmorProfile: 'runtime/default' },
      ])
        assert.equal(await confinement(security), 'berth-default (enforce)');
      assert.equal(await confinement({ apparmor: { profileType: ProfileType.Unconfined } }), 'unconfined');
    });

    test('the built-in profile refuses what capabilities would allow', { skip }, async () => {
      const capabilities = { addCapabilities: ['SYS_ADMIN', 'SYS_PTRACE'] };
      const id = await lab.start(pod, secured({ capabilities }));
      for (const command of [
        'mkdir -p /tmp/m && mount -t tmpfs none /tmp/m',
        'mount -o remount,rw /proc/sys',
        'echo 1 > /proc/sysrq-trigger',
        'echo x > /proc/sys/kernel/core_pattern',
        'echo 0 > /proc/sys/vm/swappiness',
      ])
        assert.notEqual((await lab.tryExec(id, 'sh', '-c', command)).exitCode, 0, command);
      // Ordinary work, and signals between its own.
      await lab.exec(id, 'sh', '-c', 'sleep 100 & kill $!; wait; echo x > /tmp/x; ln /tmp/x /tmp/y; ls /sys/fs/cgroup');
      await lab.exec(
        id,
        'sh',
        '-c',
        'nc -l -p 7777 > /tmp/got & sleep 0.2; echo hello | nc -w 1 127.0.0.1 7777; grep hello /tmp/got',
      );
      await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 1n });
      const bare = await lab.start(pod, secured({ capabilities, apparmor: { profileType: ProfileType.Unconfined } }));
      await lab.exec(bare, 'sh', '-c', 'mkdir -p /tmp/m && mount -t tmpfs none /tmp/m');
    });

    test('a profile of the host is taken by name once it is loaded, also for commands', { skip }, async () => {
      const missing = await lab.refused(pod, secured({ apparmor: local }));
      assert.equal(missing.code, status.FAILED_PRECONDITION);
      assert.match(missing.details, /AppArmor profile berth-test-no-tmp is not loaded/);
      // Without signals nobody ends what it confines, the runtime neither.
      const profile =
        'profile berth-test-no-tmp flags=(attach_disconnected) { file, capability, network, signal, deny /tmp/** w, }';
      execFileSync('apparmor_parser', ['--replace'], { input: profile, stdio: ['pipe', 'ignore', 'ignore'] });
      try {
        assert.equal(await confinement({ apparmor: local }), 'berth-test-no-tmp (enforce)');
        const id = await lab.start(pod, secured({ apparmor: local }));
        assert.match((await lab.tryExec(id, 'touch', '/tmp/x')).text, /Permission denied/);
        await lab.exec(id, 'touch', '/root/x');
        await lab.berthd.call(runtime.removeContainer, { containerId: id });
      } finally {
        execFileSync('apparmor_parser', ['--remove'], { input: profile, stdio: ['pipe', 'ignore', 'ignore'] });
      }
    });

    test('who takes the built-in profile away gets it back with the next container', { skip }, async () => {
      execFileSync('apparmor_parser', ['--remove'], {
        input: 'profile berth-default {}',
        stdio: ['pipe', 'ignore', 'ignore'],
      });
      assert.equal(await confinement({}), 'berth-default (enforce)');
    });
  });
}
