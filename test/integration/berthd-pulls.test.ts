/** Pulls of a real berthd: to be seen while they run, and taken up again after it was killed. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { AdminService, type Pull } from '../../proto/gen/berth/admin.ts';
import { ImageServiceService as images, PullImageRequest, RemoveImageRequest } from '../../proto/gen/cri/api.ts';
import { hostArchitecture } from '../fakes/images.ts';
import { FakeRegistry, fakeImage } from '../fakes/registry.ts';
import { tarBytes } from '../fakes/tar-bytes.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { eventually } from '../harness/cri-lab.ts';

const BERTH = fileURLToPath(new URL('../../bin/berth', import.meta.url));
const skip = process.getuid?.() === 0 ? false : 'needs root';

suite('pulls of a berthd', { skip, timeout: 900_000 }, () => {
  let berthd: TestBerthd;
  let registry: FakeRegistry;
  before(async () => {
    registry = await FakeRegistry.start();
    berthd = new TestBerthd({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
    await berthd.start();
  });
  after(async () => {
    await registry.close();
    await berthd[Symbol.asyncDispose]();
  });

  // Text, which gzip halves.
  const data = randomBytes(2_000_000).toString('hex');
  const tar = tarBytes([{ name: 'etc/' }, { name: 'etc/data', data }]).toString('latin1');
  const image = fakeImage([tar], { architecture: hostArchitecture });
  const blob = image.layers[0]?.bytes ?? Buffer.alloc(0);
  const pulls = async (): Promise<Pull[]> => (await berthd.call(AdminService.listPulls, { image: '' })).pulls;
  const layerFolders = (): string[] => readdirSync(join(berthd.root, 'image/layers'));

  test('one that a killed berthd left is taken up where it ended', async () => {
    registry.add('app', image, 'v1');
    const reference = `${registry.host}/app:v1`;
    registry.misbehave = (req, res) => {
      if (!req.url?.endsWith(image.layers[0]?.digest ?? '')) return false;
      // Most of it, and then nothing any more.
      res.writeHead(200, { 'content-length': blob.length }).write(blob.subarray(0, 1_500_000));
      return true;
    };
    const request = PullImageRequest.create({ image: { image: reference } });
    const cut = berthd.call(images.pullImage, request).then(
      () => assert.fail('the pull ended well'),
      (err: unknown) => err,
    );
    const pull = await eventually('bytes are here', async () => {
      const [found] = await pulls();
      return found && (found.layers[0]?.bytesDone ?? 0n) > 1_000_000n ? found : undefined;
    });
    assert.deepEqual(
      [pull.image, pull.phase, pull.layersPresent, pull.layers.length, pull.layers[0]?.phase],
      [reference, 'downloading', 0, 1, 'downloading'],
    );
    assert.equal(pull.layers[0]?.bytesTotal, BigInt(blob.length));
    assert.ok(pull.bytesPerSecond > 0 && pull.secondsLeft > 0 && pull.transferredBytes > 1_000_000n);
    const shown = execFileSync(BERTH, ['--socket', berthd.endpoint, 'pulls'], { encoding: 'utf8' });
    assert.match(shown, /^IMAGE +LAYER +PHASE +BYTES +RATE +LEFT +AGE\n/);
    const share = 'downloading +1\\.\\d MiB of \\d\\.\\d MiB';
    assert.match(shown, new RegExp(`^${reference} +0 of 1 +${share} +[\\d.]+ \\w+/s +\\d+\\w* +\\d+s$`, 'm'));
    assert.match(shown, new RegExp(`^ +[0-9a-f]{12} +${share}$`, 'm'));
    const during = await berthd.metrics();
    assert.match(during, /^berth_image_pulls_in_flight 1$/m);
    assert.match(during, /^berth_image_layers_in_flight\{state="downloading"\} 1$/m);
    assert.match(during, /^berth_image_pull_bytes_left [1-9]\d+$/m);
    await berthd.end('SIGKILL');
    await cut;

    registry.misbehave = undefined;
    registry.seen.length = 0;
    await berthd.start();
    assert.deepEqual(await pulls(), []);
    await eventually('layers are swept', async () => (layerFolders().length === 0 ? true : undefined));
    const { items } = await berthd.call(AdminService.pruneImages, { dryRun: true, unusedImages: false });
    assert.deepEqual(
      items.map(({ kind, name }) => [kind, name]),
      [['blob', `${image.layers[0]?.digest.replace(':', '-')}.partial`]],
    );
    await berthd.call(images.pullImage, request);
    const asked = registry.seen.filter(({ url }) => url.endsWith(image.layers[0]?.digest ?? ''));
    assert.deepEqual(asked.length, 1);
    assert.match(asked[0]?.range ?? '', /^bytes=1[0-5]\d{5}-$/);
    const [layer = ''] = layerFolders();
    assert.equal(readFileSync(join(berthd.root, 'image/layers', layer, 'diff/etc/data'), 'utf8'), data);
    assert.deepEqual(readdirSync(join(berthd.root, 'image/ingest')), []);
  });

  test('are counted by step, layer, and reason of failure', async () => {
    const reference = `${registry.host}/app:v1`;
    await berthd.call(images.pullImage, PullImageRequest.create({ image: { image: reference } }));
    const missing = PullImageRequest.create({ image: { image: `${registry.host}/app:none` } });
    await berthd.fails(images.pullImage, missing);
    const text = await berthd.metrics();
    const value = (sample: string): number => {
      const line = text.split('\n').find((found) => found.startsWith(`${sample} `)) ?? assert.fail(`no ${sample}`);
      return Number(line.slice(sample.length));
    };
    assert.equal(value('berth_image_pull_failures_total{reason="not-found"}'), 1);
    assert.deepEqual([value('berth_image_pulls_total{outcome="ok"}'), value('berth_image_pulls_in_flight')], [2, 0]);
    for (const [step, count] of [
      ['resolve', 3],
      ['trust', 1],
      ['layers', 1],
      ['commit', 1],
    ] as const) {
      assert.equal(value(`berth_image_pull_step_duration_seconds_count{step="${step}"}`), count, step);
    }
    assert.equal(value('berth_image_layers_total{source="registry"}'), 1);
    assert.equal(value('berth_image_layers_total{source="disk"}'), 0);
    assert.equal(value('berth_image_layer_bytes_total{form="compressed"}'), blob.length);
    assert.ok(value('berth_image_layer_bytes_total{form="unpacked"}') > 4_000_000);
    for (const step of ['download', 'unpack'])
      assert.equal(value(`berth_image_layer_duration_seconds_count{step="${step}"}`), 1);
    assert.equal(value('berth_image_layers'), 1);
    assert.ok(value('berth_image_layers_bytes') > 4_000_000);
    assert.equal(value('berth_image_layers_in_flight{state="downloading"}'), 0);
  });

  test('what no container uses is pruned when that is asked for', async () => {
    const reference = `${registry.host}/app:v1`;
    await berthd.call(images.pullImage, PullImageRequest.create({ image: { image: reference } }));
    const { items } = await berthd.call(AdminService.pruneImages, { dryRun: false, unusedImages: true });
    assert.deepEqual(
      items.map(({ kind, name, problem }) => [kind, name, problem]),
      [['image', reference, '']],
    );
    assert.ok((items[0]?.bytes ?? 0n) >= 4_000_000n);
    assert.deepEqual(layerFolders(), []);
    await berthd.call(images.removeImage, RemoveImageRequest.create({ image: { image: reference } }));
  });
});
