import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { findProgram } from '../../src/runtime/handlers.ts';
import type { Endpoint } from '../measure/rounds.ts';
import type { BenchLab } from './bench-lab.ts';
import { PAUSE_IMAGE, writePauseArchive } from './pause-image.ts';
import { type Peer, programOf } from './peer.ts';
import { RestartableDaemon, type StartedDaemon } from './started-daemon.ts';

const run = promisify(execFile);

/** Where the shims' sockets are, wherever the daemon's own state is; they are not configurable. */
const SHIM_FOLDER = '/run/containerd';

/** Debian's. */
export const INSTALLED_CONTAINERD: Peer = Object.freeze({ kind: 'containerd', name: 'containerd', folder: '' });

/**
 * Starts a containerd (1.6 to 2.3 are known to do) with folders of its own, the lab's network, `runtime` as its OCI runtime
 * and Berth's pause program as its pause image. Another containerd of this machine is not touched.
 */
export async function startContainerd(
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
  peer: Peer = INSTALLED_CONTAINERD,
): Promise<{ daemon: StartedDaemon; endpoint: Endpoint }> {
  const root = join(lab.root, peer.name);
  const state = join(lab.state, peer.name);
  const socket = join(state, 'containerd.sock');
  await mkdir(root, { recursive: true });
  await mkdir(state, { recursive: true });
  const file = join(root, 'config.toml');
  await writeFile(file, configuration({ root, state, socket, runtime, cniConfDir: lab.cniConfDir }));
  const hadShims = existsSync(SHIM_FOLDER);
  const address = `unix://${socket}`;
  const command = [programOf(peer, 'containerd'), '--config', file];
  // Its shim is looked for in the PATH.
  const env = peer.folder === '' ? {} : { PATH: `${peer.folder}:${process.env['PATH'] ?? ''}` };
  const started = await RestartableDaemon.start({ command, address, env }, signal);
  const daemon = {
    pid: started.pid,
    stop: async (): Promise<void> => {
      await started.stop();
      if (!hadShims) await removeShimFolder();
    },
  };
  try {
    const importImage = async (archive: string): Promise<void> => {
      await run(programOf(peer, 'ctr'), ['--address', socket, '--namespace', 'k8s.io', 'images', 'import', archive]);
    };
    await importImage(await writePauseArchive(join(root, 'pause-image')));
    const busybox = join(root, 'busybox.tar');
    await run('tar', ['-C', layout, '-cf', busybox, '.']);
    await importImage(busybox);
  } catch (err) {
    await daemon.stop();
    throw err;
  }
  return { daemon, endpoint: { name: peer.name, address, restart: () => started.restart() } };
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
    '[plugins."io.containerd.nri.v1.nri"]',
    `socket_path = "${of.state}/nri.sock"`,
    `plugin_path = "${of.root}/nri/plugins"`,
    `plugin_config_path = "${of.root}/nri/conf.d"`,
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

/** Empty folders only: shims that still run keep theirs. */
async function removeShimFolder(): Promise<void> {
  for (const folder of [join(SHIM_FOLDER, 's'), SHIM_FOLDER]) await rmdir(folder).catch(() => undefined);
}
