import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { findProgram } from '../../src/runtime/handlers.ts';
import type { Endpoint } from '../measure/rounds.ts';
import { BENCH_IMAGE, type BenchLab } from './bench-lab.ts';
import { PAUSE_IMAGE, writePauseArchive } from './pause-image.ts';
import { type Peer, programOf } from './peer.ts';
import { RestartableDaemon, type StartedDaemon } from './started-daemon.ts';

const run = promisify(execFile);

interface Folders {
  readonly root: string;
  readonly state: string;
}

/**
 * Starts a CRI-O (1.36 is known to do) with folders of its own, the lab's network, `runtime` as its OCI runtime, conmon as
 * its monitor and Berth's pause program as its pause image. Else it is as CRI-O comes, but for the driver of cgroups, which
 * is the kernel's own files for all that the bench starts.
 */
export async function startCrio(
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
  peer: Peer,
): Promise<{ daemon: StartedDaemon; endpoint: Endpoint }> {
  const folders = { root: join(lab.root, peer.name), state: join(lab.state, peer.name) };
  for (const folder of [folders.root, folders.state, join(folders.root, 'hooks')]) {
    await mkdir(folder, { recursive: true });
  }
  const policy = join(folders.root, 'policy.json');
  await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
  const registries = join(folders.root, 'registries.conf');
  await writeFile(registries, '');
  await importImages(folders, layout, policy);
  const file = join(folders.root, 'crio.conf');
  await writeFile(file, configuration(folders, { peer, runtime, policy, cniConfDir: lab.cniConfDir }));
  const address = `unix://${folders.state}/crio.sock`;
  const command = [programOf(peer, 'crio'), '--config', file, '--config-dir', ''];
  const env = { CONTAINERS_REGISTRIES_CONF: registries };
  const daemon = await RestartableDaemon.start({ command, address, env }, signal);
  return { daemon, endpoint: { name: peer.name, address, restart: () => daemon.restart() } };
}

function configuration(
  { root, state }: Folders,
  of: { readonly peer: Peer; readonly runtime: string; readonly policy: string; readonly cniConfDir: string },
): string {
  const pinns = of.peer.folder === '' ? [] : [`pinns_path = "${programOf(of.peer, 'pinns')}"`];
  const lines = [
    '[crio]',
    `root = "${root}/storage"`,
    `runroot = "${state}/storage"`,
    'storage_driver = "overlay"',
    `log_dir = "${root}/logs"`,
    `version_file = "${state}/version"`,
    `clean_shutdown_file = "${root}/clean.shutdown"`,
    '[crio.api]',
    `listen = "${state}/crio.sock"`,
    '[crio.runtime]',
    `default_runtime = "${of.runtime}"`,
    'cgroup_manager = "cgroupfs"',
    'apparmor_profile = "unconfined"',
    `hooks_dir = ["${root}/hooks"]`,
    `container_exits_dir = "${state}/exits"`,
    `container_attach_socket_dir = "${state}/attach"`,
    `namespaces_dir = "${state}/namespaces"`,
    // Or it would change how interrupts of this machine are spread.
    'irqbalance_config_restore_file = "disable"',
    ...pinns,
    `[crio.runtime.runtimes.${of.runtime}]`,
    `runtime_path = "${findProgram(of.runtime)}"`,
    `runtime_root = "${state}/runtime"`,
    'runtime_type = "oci"',
    `monitor_path = "${findProgram('conmon')}"`,
    'monitor_cgroup = "pod"',
    '[crio.image]',
    `pause_image = "${PAUSE_IMAGE}"`,
    `signature_policy = "${of.policy}"`,
    `signature_policy_dir = "${root}/policies"`,
    '[crio.network]',
    `network_dir = "${of.cniConfDir}"`,
    'plugin_dirs = ["/usr/lib/cni"]',
    '[crio.nri]',
    `nri_listen = "${state}/nri.sock"`,
    `nri_plugin_dir = "${root}/nri/plugins"`,
    `nri_plugin_config_dir = "${root}/nri/conf.d"`,
  ];
  return `${lines.join('\n')}\n`;
}

/** CRI-O has no call that loads an image; skopeo writes where it will read. */
async function importImages({ root, state }: Folders, layout: string, policy: string): Promise<void> {
  const storage = `[overlay@${root}/storage+${state}/storage]`;
  const copy = async (from: string, to: string): Promise<void> => {
    await run('skopeo', ['--policy', policy, 'copy', from, `containers-storage:${storage}${to}`]);
  };
  await copy(`oci:${layout}:${BENCH_IMAGE}`, BENCH_IMAGE);
  await copy(`docker-archive:${await writePauseArchive(join(root, 'pause-image'))}`, PAUSE_IMAGE);
}
