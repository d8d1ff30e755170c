import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import type { CrictlLab } from './lab.ts';

/** crictl about the runtime and about itself: version, info, runtime-config, config, completion. */
export function aboutTests(lab: () => CrictlLab): void {
  suite('the runtime and crictl itself', () => {
    test('version tells the runtime', async () => {
      const said = await lab().run('version');
      assert.match(said, /RuntimeName: +berth\n/);
      assert.match(said, /RuntimeApiVersion: +v1/);
    });

    test('info shows that pods can run, and what handlers can do', async () => {
      const info = await lab().json<{
        status: { conditions: { type: string; status: boolean }[] };
        runtimeHandlers: { name?: string }[];
        features: { supplemental_groups_policy: boolean };
      }>('info');
      const ready = Object.fromEntries(info.status.conditions.map(({ type, status }) => [type, status]));
      assert.equal(ready['RuntimeReady'], true);
      assert.equal(ready['NetworkReady'], true);
      assert.equal(info.features.supplemental_groups_policy, true);
      const names = info.runtimeHandlers.map(({ name = '' }) => name);
      assert.ok(names.includes(''), `no default handler: ${names.join(', ')}`);
      assert.match(await lab().run('info', '-o', 'yaml'), /type: RuntimeReady/);
      const template = '{{range .status.conditions}}{{.type}} {{end}}';
      assert.match(await lab().run('info', '-o', 'go-template', '--template', template), /RuntimeReady NetworkReady/);
      assert.ok((await lab().run('info', '-q')).length <= (await lab().run('info')).length);
    });

    test('runtime-config tells the cgroup driver, update-runtime-config takes a range for pods', async () => {
      assert.match(await lab().run('runtime-config'), /^cgroup driver: +(CGROUPFS|SYSTEMD)$/);
      await lab().run('update-runtime-config', '--pod-cidr', '10.9.0.0/16');
      // A cluster without ranges for nodes sends none.
      await lab().run('update-runtime-config');
    });

    test('config keeps options in a file; completion knows shells', async () => {
      const file = lab().file('crictl.yaml', '');
      const config = (...args: string[]): Promise<string> => lab().run('--config', file, 'config', ...args);
      lab().tried.add('config');
      await config('--set', `runtime-endpoint=${lab().berthd.endpoint},timeout=30`);
      assert.equal(await config('--get', 'runtime-endpoint'), lab().berthd.endpoint);
      assert.match(await config('--list'), /timeout +30/);
      assert.match(await lab().run('completion', 'bash'), /complete /);
    });
  });
}
