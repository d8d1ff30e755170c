/** What a running berthd takes over of its configuration, and what it does with one that is broken. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import {
  ImageServiceService as images,
  ListImagesRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { PodLab } from '../harness/pod-lab.ts';

const BERTH = fileURLToPath(new URL('../../bin/berth', import.meta.url));
const RELOADED = '"msg":"configuration reloaded"';

suite('reloads of the configuration', { timeout: 900_000 }, () => {
  let lab: PodLab;
  let dropIns: string;
  before(async () => {
    lab = await PodLab.start({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
    dropIns = join(lab.berthd.root, 'berth.toml.d');
  });
  after(async () => await lab.close());

  /** Puts a drop-in there as editors and packages do, and waits until berthd has said `words`. */
  async function drop(text: string, words = RELOADED): Promise<void> {
    const said = lab.berthd.logged(words, 1);
    mkdirSync(dropIns, { recursive: true });
    writeFileSync(join(dropIns, '.new'), text);
    renameSync(join(dropIns, '.new'), join(dropIns, '50-test.toml'));
    await said;
  }

  const check = (): string => {
    try {
      return execFileSync(BERTH, ['--socket', lab.berthd.endpoint, 'config', 'check'], {
        encoding: 'utf8',
        stdio: 'pipe',
      });
    } catch (err) {
      // It ends with 1 where it has found an error.
      return String(Reflect.get(Object(err), 'stdout'));
    }
  };

  test('files that change are followed by themselves: pins, defaults of containers, handlers, networks, metrics', async () => {
    const old = await lab.runPod(lab.podConfig());
    const [kept] = [await lab.create(old)];
    const { images: before } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
    assert.deepEqual([before.length, before[0]?.pinned], [1, false]);
    await drop(
      [
        '[image]',
        'pinned_images = ["*"]',
        '[runtime]',
        'default_env = ["RELOADED=yes"]',
        '[runtime.handlers.other]',
        'path = "runc"',
        '[metrics]',
        `socket = "${lab.berthd.state}/metrics.sock"`,
      ].join('\n'),
    );
    const { images: now } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
    assert.equal(now[0]?.pinned, true);
    const podSandboxId = await lab.runPod(lab.podConfig());
    const containerId = await lab.create(podSandboxId);
    await lab.berthd.call(runtime.startContainer, { containerId });
    const { stdout } = await lab.berthd.call(runtime.execSync, {
      containerId,
      cmd: ['sh', '-c', 'echo $RELOADED'],
      timeout: 60n,
    });
    assert.equal(Buffer.from(stdout).toString(), 'yes\n');
    const { runtimeHandlers } = await lab.berthd.call(runtime.status, { verbose: false });
    assert.ok(runtimeHandlers.some(({ name }) => name === 'other'));
    // What was there before goes on.
    await lab.berthd.call(runtime.startContainer, { containerId: kept });
    const text = await lab.berthd.metrics();
    assert.match(text, /^berth_config_reloads_total\{outcome="ok"\} 1$/m);
    assert.match(text, /^berth_config_last_reload_successful 1$/m);
    assert.match(text, /^berth_runtime_handler_usable\{handler="other"\} 1$/m);
  });

  test('a broken file keeps the running configuration, and says why: in the log, metrics and config check', async () => {
    await drop('[image]\npinned_images = ["*"\n', 'configuration not reloaded');
    assert.match(readFileSync(lab.berthd.logFile, 'utf8'), /50-test\.toml:\d.*configuration not reloaded/);
    const text = await lab.berthd.metrics();
    assert.match(text, /^berth_config_last_reload_successful 0$/m);
    assert.match(text, /^berth_config_reloads_total\{outcome="refused"\} 1$/m);
    assert.match(check(), /cannot be used as they are now.*50-test\.toml/);
    const { images: now } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
    assert.equal(now[0]?.pinned, true);
    // A value that is well formed and cannot be used is refused as a whole.
    await drop(
      '[image]\npinned_images = []\n[runtime]\ndefault_sysctls = ["kernel.panic=1"]\n',
      'configuration not reloaded',
    );
    await lab.runPod(lab.podConfig());
  });

  test('keys that need a restart are named, and what is in force is shown', async () => {
    await drop('[image]\npinned_images = []\n[stream]\nlisten = "127.0.0.1:45678"\n', 'and need a restart');
    assert.match(readFileSync(lab.berthd.logFile, 'utf8'), /"keys":\["stream\.listen"\]/);
    const said = check();
    assert.match(said, /stream\.listen/);
    assert.match(await lab.berthd.metrics(), /^berth_config_keys_waiting 1$/m);
    const { images: now } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
    assert.equal(now[0]?.pinned, false);
    const again = lab.berthd.logged(RELOADED, 1);
    process.kill(lab.berthd.pid, 'SIGHUP');
    await again;
  });
});
