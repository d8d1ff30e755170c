import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { findProgram } from '../../src/runtime/handlers.ts';
import { hostArchitecture } from '../../test/fakes/images.ts';
import type { Endpoint } from '../measure/rounds.ts';
import { type BenchLab, repository } from './bench-lab.ts';
import { type StartedDaemon, startDaemon } from './started-daemon.ts';

const run = promisify(execFile);

const PAUSE_IMAGE = 'localhost/berth-bench/pause:1';

/** Where the shims' sockets are, wherever the daemon's own state is; they are not configurable. */
const SHIM_FOLDER = '/run/containerd';

/**
 * Starts Debian's containerd with folders of its own, the lab's network, `runtime` as its OCI runtime and Berth's pause
 * program as its pause image. Another containerd of this machine is not touched.
 */
export async function startContainerd(
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
): Promise<{ daemon: StartedDaemon; endpoint: Endpoint }> {
  const root = join(lab.root, 'containerd');
  const state = join(lab.state, 'containerd');
  const socket = join(state, 'containerd.sock');
  await mkdir(root, { recursive: true });
  await mkdir(state, { recursive: true });
  const file = join(root, 'config.toml');
  await writeFile(file, configuration({ root, state, socket, runtime, cniConfDir: lab.cniConfDir }));
  const hadShims = existsSync(SHIM_FOLDER);
  const started = await startDaemon(['containerd', '--config', file], /containerd successfully booted/, signal);
  const daemon = {
    ...started,
    stop: async (): Promise<void> => {
      await started.stop();
      if (!hadShims) await removeShimFolder();
    },
  };
  try {
    await importImage(socket, await pauseArchive(join(root, 'pause-image')));
    const busybox = join(root, 'busybox.tar');
    await run('tar', ['-C', layout, '-cf', busybox, '.']);
    await importImage(socket, busybox);
  } catch (err) {
    await daemon.stop();
    throw err;
  }
  return { daemon, endpoint: { name: 'containerd', address: `unix://${socket}` } };
}

function configuration(of: {
  root: string;
  state: string;
  socket: string;
  runtime: string;
  cniConfDir: string;
}): string {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  const lines = [
    'version = 2',
    `root = "${of.root}/root"`,
    `state = "${of.state}/state"`,
    `disabled_plugins = [${['aufs', 'btrfs', 'devmapper', 'zfs'].map((name) => `"io.containerd.snapshotter.v1.${name}"`)}]`,
    '[grpc]',
    `address = "${of.socket}"`,
    '[plugins."io.containerd.internal.v1.opt"]',
    `path = "${of.root}/opt"`,
    `[${cri}]`,
    `sandbox_image = "${PAUSE_IMAGE}"`,
    // Without CAP_SYS_RESOURCE the kernel refuses the pause's -998.
    'restrict_oom_score_adj = true',
    `[${cri}.cni]`,
    'bin_dir = "/usr/lib/cni"',
    `conf_dir = "${of.cniConfDir}"`,
    `[${cri}.containerd]`,
    'default_runtime_name = "default"',
    ...['default', of.runtime].flatMap((name) => [
      `[${cri}.containerd.runtimes.${name}]`,
      'runtime_type = "io.containerd.runc.v2"',
      `[${cri}.containerd.runtimes.${name}.options]`,
      `BinaryName = "${findProgram(of.runtime)}"`,
      `Root = "${of.state}/runtime"`,
    ]),
  ];
  return `${lines.join('\n')}\n`;
}

async function importImage(socket: string, archive: string): Promise<void> {
  await run('ctr', ['--address', socket, '--namespace', 'k8s.io', 'images', 'import', archive]);
}

/** An archive as `docker save` writes it, whose only file is the pause program. */
async function pauseArchive(dir: string): Promise<string> {
  await mkdir(join(dir, 'rootfs'), { recursive: true });
  await copyFile(join(repository, 'dist/native/pause'), join(dir, 'rootfs/pause'));
  const layer = join(dir, 'layer.tar');
  await run('tar', ['-C', join(dir, 'rootfs'), '--owner=0', '--group=0', '-cf', layer, '.']);
  const digest = createHash('sha256')
    .update(await readFile(layer))
    .digest('hex');
  const config = {
    architecture: hostArchitecture,
    os: 'linux',
    config: { Entrypoint: ['/pause'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  };
  await writeFile(join(dir, 'config.json'), JSON.stringify(config));
  const manifest = [{ Config: 'config.json', RepoTags: [PAUSE_IMAGE], Layers: ['layer.tar'] }];
  await writeFile(join(dir, 'manifest.json'), JSON.stringify(manifest));
  const archive = `${dir}.tar`;
  await run('tar', ['-C', dir, '-cf', archive, 'manifest.json', 'config.json', 'layer.tar']);
  return archive;
}

/** Empty folders only: shims that still run keep theirs. */
async function removeShimFolder(): Promise<void> {
  for (const folder of [join(SHIM_FOLDER, 's'), SHIM_FOLDER]) await rmdir(folder).catch(() => undefined);
}
