import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { raceSignal } from '../base/deadline.ts';
import { BerthError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { ContainerSpec } from '../runtime/container-spec.ts';
import { sandboxName } from './names.ts';
import { PodCheckpoints, type RestoreWish } from './pod-checkpoints.ts';
import type { PodDeps } from './pod-deps.ts';
import type { Pods } from './pods.ts';

const never = new AbortController().signal;
let folder: string;
let isMade: boolean;
let removed: number;
let container: PromiseWithResolvers<object>;
let checkpoints: PodCheckpoints;
let wish: RestoreWish;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-restore-'));
  const pod = { name: 'p', namespace: 'n', uid: 'u' };
  const containers = [{ name: 'a', archive: 'a.tar' }];
  writeFileSync(join(folder, 'pod.json'), JSON.stringify({ version: 1, pod, checkpointedTime: '', containers }));
  writeFileSync(join(folder, 'a.tar'), '');
  wish = {
    path: folder,
    sandbox: { ...pod, attempt: 0 },
    containers: [{ name: 'a', image: {}, workingDir: '' }],
  } as unknown as RestoreWish;
  [isMade, removed, container] = [false, 0, Promise.withResolvers()];
  const name = sandboxName(wish.sandbox);
  // As the pod room does it: calls for the same thing share one work, and each stops waiting when its client leaves.
  const pods = {
    async runSandbox() {
      isMade = true;
      return { id: 's', name };
    },
    createContainer: async (_id: string, spec: ContainerSpec, signal: AbortSignal) => {
      const made = await raceSignal(container.promise, signal);
      if (spec.workingDir !== '') throw new BerthError('alreadyExists', 'the container that is there is another');
      return made;
    },
    async removeSandbox() {
      removed += 1;
    },
  } as unknown as Pods;
  const findByName = (): object | undefined => (isMade ? { id: 's', name, state: 'ready' } : undefined);
  const deps = { sandboxes: { findByName }, containers: { all: () => [] }, log: silentLogger } as unknown as PodDeps;
  checkpoints = new PodCheckpoints(deps, pods, never);
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a client that leaves takes nothing from another one that wants the same pod', async () => {
  const leaving = new AbortController();
  const first = checkpoints.restorePod(wish, leaving.signal);
  const second = checkpoints.restorePod(wish, never);
  leaving.abort(new Error('it has left'));
  await assert.rejects(first, /it has left/);
  assert.equal(removed, 0);
  container.resolve({ id: 'c' });
  assert.equal((await second).containers.length, 1);
});

test('the last client that leaves has everything removed, and so has a failure', async () => {
  const leaving = new AbortController();
  const both = [checkpoints.restorePod(wish, leaving.signal), checkpoints.restorePod(wish, leaving.signal)];
  leaving.abort(new Error('they have left'));
  for (const result of await Promise.allSettled(both)) assert.equal(result.status, 'rejected');
  assert.equal(removed, 1);
  isMade = false;
  const failing = [checkpoints.restorePod(wish, never), checkpoints.restorePod(wish, never)];
  container.reject(new Error('no room'));
  for (const result of await Promise.allSettled(failing)) assert.equal(result.status, 'rejected');
  assert.equal(removed, 2);
});

test('a request that is repeated before the answer goes on with the pod, and one for another takes nothing from it', async () => {
  const first = checkpoints.restorePod(wish, never);
  const same = checkpoints.restorePod(wish, never);
  const other = checkpoints.restorePod(
    { ...wish, containers: wish.containers.map((one) => ({ ...one, workingDir: '/else' })) },
    never,
  );
  container.resolve({ id: 'c' });
  assert.deepEqual([(await first).containers, (await same).containers], [[{ id: 'c' }], [{ id: 'c' }]]);
  await assert.rejects(other, /is another/);
  assert.equal(removed, 0);
});
