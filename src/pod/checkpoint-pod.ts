import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

import { BerthError, because, invalid } from '../base/errors.ts';
import type { CheckpointRequest } from './checkpoint.ts';
import { POD_FILE, type PodCheckpoint } from './checkpoint-archive.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';

/** What a client wants of the checkpoint of a pod. */
export interface PodCheckpointWish {
  /** An empty folder. */
  readonly outputPath: string;
  /** Exactly those that run; empty: all that run. */
  readonly containerIds: readonly string[];
}

/**
 * The files of a pod's checkpoint: one archive per container and pod.json. Throws `invalid` for a path that is no empty
 * folder or containers that are not those that run, `precondition` for a pod that is not ready or has none.
 */
export function podCheckpointRequest(
  deps: PodDeps,
  sandbox: SandboxRecord,
  wish: PodCheckpointWish,
): CheckpointRequest {
  if (sandbox.state !== 'ready')
    throw new BerthError('precondition', `sandbox ${sandbox.id} is ${sandbox.state}, not ready`);
  const running = deps.containers
    .all()
    .filter(({ sandboxId, state }) => sandboxId === sandbox.id && state === 'running');
  if (running.length === 0) throw new BerthError('precondition', `sandbox ${sandbox.id} has no running container`);
  checkContainers(deps, running, wish.containerIds);
  checkOutput(wish.outputPath);
  const containers = running.map(({ id, spec }) => ({ id, name: spec.name, archive: `${spec.name}.tar` }));
  const names = new Set(containers.map(({ name }) => name));
  if (names.size < containers.length)
    throw new BerthError('precondition', `sandbox ${sandbox.id} has running containers of the same name`);
  const description: PodCheckpoint = {
    version: 1,
    pod: { name: sandbox.spec.name, namespace: sandbox.spec.namespace, uid: sandbox.spec.uid },
    checkpointedTime: new Date(deps.clock.nowUs() / 1000).toISOString(),
    containers: containers.map(({ name, archive }) => ({ name, archive })),
  };
  return {
    containers: containers.map(({ id, archive }) => ({ id, archive: join(wish.outputPath, archive) })),
    extra: { file: join(wish.outputPath, POD_FILE), text: `${JSON.stringify(description, undefined, 2)}\n` },
  };
}

function checkContainers(deps: PodDeps, running: readonly ContainerRecord[], ids: readonly string[]): void {
  if (ids.length === 0) return;
  const wanted = ids.map((id) => deps.containers.getByPrefix(id).id).sort();
  const actual = running.map(({ id }) => id).sort();
  if (!isDeepStrictEqual(wanted, actual))
    throw invalid('container_ids', `must be the running containers of the sandbox, ${actual.join(', ')}`);
}

function checkOutput(path: string): void {
  if (!path.startsWith('/') || path.includes('\0'))
    throw invalid('output_path', `${JSON.stringify(path)} is not an absolute path`);
  try {
    if (!statSync(path).isDirectory()) throw invalid('output_path', `${path} is not a folder`);
    if (readdirSync(path).length > 0) throw invalid('output_path', `${path} is not empty`);
  } catch (err) {
    if (err instanceof BerthError) throw err;
    throw because('invalid', `output_path: ${path} is not a folder that can be read`, err);
  }
}
