/** The process that unpacks for berthd: apart from it, and gone with it. Needs root. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { LoopProbe } from '../../bench/measure/event-loop.ts';
import { ImageServiceService as images, PullImageRequest, RemoveImageRequest } from '../../proto/gen/cri/api.ts';
import { hostArchitecture } from '../fakes/images.ts';
import { childPids } from '../fakes/process-facts.ts';
import { FakeRegistry, fakeImage } from '../fakes/registry.ts';
import { tarBytes } from '../fakes/tar-bytes.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { eventually } from '../harness/cri-lab.ts';
import { listTree } from '../harness/list-tree.ts';
import { isAlive } from '../harness/machine-state.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
/**
 * Of work without a turn of the event loop: what it slept through on a busy disk is no part of this. Far above what a slow
 * machine makes of 20 ms; loading all of undici at once, or hashing a layer, is far above this there.
 */
const BUSY_MS = 150;

/** Starting a process takes seconds on a machine that is all busy. */
const PATIENCE_MS = 30_000;

suite('disk process of a berthd', { skip, timeout: 900_000 }, () => {
  let berthd: TestBerthd;
  let registry: FakeRegistry;
  let folder: string;
  let probe: LoopProbe;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-disk-process-'));
    probe = new LoopProbe(folder);
    registry = await FakeRegistry.start();
    registry.add('app', image, 'v1');
    berthd = new TestBerthd({ environment: probe.env });
    await berthd.start();
  });
  afterEach(async () => {
    registry.misbehave = undefined;
    await berthd.call(images.removeImage, RemoveImageRequest.create({ image: { image: reference() } }));
    assert.deepEqual(readdirSync(join(berthd.root, 'image/layers')), []);
  });
  after(async () => {
    await registry.close();
    await berthd[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true });
  });

  // Text, which gzip halves.
  const files = Array.from({ length: 80 }, (_, index) => ({
    name: `f${index}`,
    data: randomBytes(50_000).toString('hex'),
  }));
  const image = fakeImage([tarBytes(files).toString('latin1')], { architecture: hostArchitecture });
  const blob = image.layers[0]?.bytes ?? Buffer.alloc(0);
  const reference = (): string => `${registry.host}/app:v1`;
  const pull = (): Promise<unknown> =>
    berthd.call(images.pullImage, PullImageRequest.create({ image: { image: reference() } }));

  function diskProcesses(): number[] {
    return childPids(berthd.pid).filter(
      (pid) => isAlive(pid) && readFileSync(`/proc/${pid}/comm`, 'utf8') === 'berth-disk\n',
    );
  }

  /** Begins a pull, which is held in the middle of its layer; the process is at it when this returns. */
  async function heldPull(): Promise<{ pulled: Promise<unknown>; finish: () => void }> {
    const held = Promise.withResolvers<ServerResponse>();
    registry.misbehave = (req, res) => {
      if (!req.url?.endsWith(image.layers[0]?.digest ?? '')) return false;
      res.writeHead(200, { 'content-length': blob.length }).write(blob.subarray(0, 3_000_000));
      held.resolve(res);
      return true;
    };
    const pulled = pull();
    pulled.catch(() => {});
    const response = await held.promise;
    await unpacking();
    return { pulled, finish: () => response.end(blob.subarray(3_000_000)) };
  }

  /** The process, as soon as it has written files of the layer. */
  async function unpacking(not?: number): Promise<number> {
    return await eventually(
      'files of the layer are here',
      async () => {
        const [pid] = diskProcesses();
        return pid !== undefined && pid !== not && layerFiles().length > 0 ? pid : undefined;
      },
      PATIENCE_MS,
    );
  }

  function layerFiles(): string[] {
    const layers = join(berthd.root, 'image/layers');
    return listTree(layers).filter((name) => /\/diff\/f\d+$/.test(name));
  }

  test('is apart from berthd: descriptors, priority, threads; in its cgroup', async () => {
    const startedMs = Date.now();
    const { pulled, finish } = await heldPull();
    const [pid = 0, ...others] = diskProcesses();
    assert.deepEqual(others, []);
    const open = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => linkOf(`/proc/${pid}/fd/${fd}`) ?? []);
    const strange = open.filter(
      (target) => !/^(pipe:|anon_inode:|\/dev\/null$)/.test(target) && !target.startsWith(join(berthd.root, 'image/')),
    );
    assert.deepEqual(strange, [], 'no socket, database or file of berthd');
    assert.equal(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), readFileSync(`/proc/${berthd.pid}/cgroup`, 'utf8'));
    assert.ok(Math.min(...nicesOf(pid)) > Math.max(...nicesOf(berthd.pid)), 'no thread of berthd gives way to pods');
    finish();
    await pulled;
    const { ranMs } = probe.longest(startedMs, Date.now());
    assert.ok(ranMs < BUSY_MS, `the event loop was busy for ${ranMs} ms`);
  });

  test('a pull goes on when it is killed once, and says so when that comes again', async () => {
    const once = await heldPull();
    const [first = 0] = diskProcesses();
    process.kill(first, 'SIGKILL');
    await unpacking(first);
    once.finish();
    await once.pulled;
    assert.equal(layerFiles().length, files.length);
    await berthd.call(images.removeImage, RemoveImageRequest.create({ image: { image: reference() } }));

    const twice = await heldPull();
    const [second = 0] = diskProcesses();
    process.kill(second, 'SIGKILL');
    process.kill(await unpacking(second), 'SIGKILL');
    await eventually('the second is gone', async () => (diskProcesses().length === 0 ? true : undefined));
    twice.finish();
    await assert.rejects(
      twice.pulled,
      /unpack layer sha256:[0-9a-f]{64}: .*: unpack: the process for work on the disk was ended by SIGKILL/,
    );
    registry.misbehave = undefined;
    await pull();
  });

  test('is gone when berthd is killed in the middle of an unpack', async () => {
    const { pulled } = await heldPull();
    const [pid = 0] = diskProcesses();
    await berthd.end('SIGKILL');
    await assert.rejects(pulled);
    await eventually('it has ended', async () => (isAlive(pid) ? undefined : true));
    await berthd.start();
    await eventually('layers are swept', async () =>
      readdirSync(join(berthd.root, 'image/layers')).length === 0 ? true : undefined,
    );
  });
});

function nicesOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).map((tid) => getPriority(Number(tid)));
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
