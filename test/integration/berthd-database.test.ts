/** A database that is lost or damaged costs no pod: what runs goes on, and is known again after the next start. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import Database from 'better-sqlite3';

import {
  ContainerState,
  ImageServiceService as images,
  ListContainersRequest,
  ListPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

suite('a database that is lost or damaged', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  const database = (): string => join(lab.berthd.root, 'berth.db');
  const dropLog = (): void => {
    for (const end of ['-wal', '-shm']) rmSync(database() + end, { force: true });
  };
  const known = async () => [
    (await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items,
    (await lab.berthd.call(runtime.listContainers, ListContainersRequest.create())).containers,
    (await lab.berthd.call(images.listImages, { filter: undefined })).images,
  ];

  /** Those of images are the last to be written. */
  const areCopied = (ids: readonly string[]): true | undefined => {
    const image = join(lab.berthd.root, 'records/images', encodeURIComponent(lab.imageId));
    if (!existsSync(image)) return undefined;
    const rows = new Database(database(), { readonly: true });
    try {
      const bodyOf = rows.prepare<[string], string>('SELECT body FROM containers WHERE id = ?').pluck();
      const isCopied = (id: string): boolean => {
        const copy = join(lab.berthd.state, 'records/containers', id);
        return existsSync(copy) && readFileSync(copy, 'utf8').endsWith(`\n${bodyOf.get(id)}`);
      };
      return ids.every(isCopied) || undefined;
    } finally {
      rows.close();
    }
  };

  const damages: Readonly<Record<string, { readonly aside: number; readonly happens: () => void }>> = {
    deleted: {
      aside: 0,
      happens: () => {
        dropLog();
        rmSync(database());
      },
    },
    'cut to nothing': { aside: 0, happens: () => truncateSync(database(), 0) },
    'cut in the middle': {
      aside: 1,
      happens: () => {
        dropLog();
        truncateSync(database(), 3 * 4096 + 17);
      },
    },
    'changed in one byte of a name': {
      // A table and its index do not fit together then.
      aside: 1,
      happens: () => {
        const bytes = readFileSync(database());
        const at = bytes.indexOf('k8s_container-');
        assert.ok(at > 0);
        bytes[at + 4] = 'X'.charCodeAt(0);
        writeFileSync(database(), bytes);
      },
    },
    'changed in one byte of its header': {
      aside: 1,
      happens: () => {
        const bytes = readFileSync(database());
        bytes[3] = (bytes[3] ?? 0) ^ 0x40;
        writeFileSync(database(), bytes);
      },
    },
  };
  for (const [what, { aside, happens }] of Object.entries(damages)) {
    // A stop moves the log into the database, so that what is changed in there counts.
    for (const signal of [what === 'deleted' || what === 'cut in the middle' ? 'SIGKILL' : 'SIGTERM'] as const) {
      test(`${what}, after ${signal}: pods run on and are known, and it is told`, async () => {
        const pods = [await lab.runPod(), await lab.runPod()];
        const ids = await Promise.all(pods.map((pod) => lab.start(pod)));
        const [created, ended] = [
          await lab.create(pods[0] ?? ''),
          await lab.run(pods[0] ?? '', { command: ['sh', '-c', 'exit 6'] }),
        ];
        const pids = await Promise.all(ids.map(async (id) => (await lab.info(id)).pid));
        const before = await known();
        await eventually('the copies are there', () => areCopied([...ids, created, ended.id]));
        await lab.berthd.end(signal);
        happens();
        await lab.berthd.start();
        assert.deepEqual(await known(), before);
        assert.deepEqual(await Promise.all(ids.map(async (id) => (await lab.info(id)).pid)), pids);
        for (const id of ids) assert.equal(await lab.exec(id, 'echo', 'runs on'), 'runs on');
        await lab.berthd.call(runtime.startContainer, { containerId: created });
        assert.deepEqual(await lab.status(ended.id), ended);
        const asides = readdirSync(lab.berthd.root).filter((name) => /damaged-.*Z$/.test(name));
        for (const name of readdirSync(lab.berthd.root).filter((found) => found.includes('.damaged-')))
          rmSync(join(lab.berthd.root, name));
        assert.equal(asides.length, aside);
        assert.match(readFileSync(lab.berthd.logFile, 'utf8'), /restored from (their copies|its copy)/);
        const again = await lab.start(pods[1] ?? '');
        assert.equal((await lab.status(again)).state, ContainerState.CONTAINER_RUNNING);
        for (const pod of pods) await lab.removePod(pod);
        await lab.berthd.end('SIGKILL');
        await lab.berthd.start();
        assert.deepEqual((await known()).slice(0, 2), [[], []], 'what was removed stays so');
      });
    }
  }
});
