import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { readCgroups, readLinks, readMounts } from './machine-state.ts';
import { bridgeList, type TestNetwork, takeNetwork } from './test-network.ts';

const START_TIMEOUT_MS = 30_000;
/** Where shims keep their sockets, wherever the daemon's own state is. */
const SHIM_FOLDER = '/run/containerd';
/** The bridge plugin switches it on for good. */
const FORWARDING = '/proc/sys/net/ipv4/ip_forward';

/** How a test's containerd shall be. */
export interface ContainerdOptions {
  /** What pods run for themselves; it is pulled when the first one needs it. */
  readonly pauseImage: string;
  /** Registry on loopback, `127.0.0.1:<port>`, that serves the images of other registries. */
  readonly mirror?: string;
  /** Registries whose images come from the mirror. */
  readonly mirrored?: readonly string[];
}

/**
 * Debian's containerd with folders, network and bridge of a test's own, to see how a peer behaves. Another containerd
 * of this machine is not touched. Dispose of it when no pod is left in it.
 */
export class TestContainerd implements AsyncDisposable {
  readonly root: string = mkdtempSync('/var/lib/berth-test-containerd-');
  readonly state: string = mkdtempSync('/run/berth-test-containerd-');
  readonly endpoint: string = `unix://${this.state}/containerd.sock`;
  readonly network: TestNetwork = takeNetwork();
  readonly #hadShims = existsSync(SHIM_FOLDER);
  readonly #forwarding = readFileSync(FORWARDING, 'utf8');
  readonly #cgroups = new Set(readCgroups());
  #process: ChildProcess | undefined;

  /** Undefined where it is installed; else what to do. */
  static get missing(): string | undefined {
    return existsSync('/usr/bin/containerd') ? undefined : "install Debian's containerd";
  }

  constructor(options: ContainerdOptions) {
    const networks = join(this.root, 'net.d');
    mkdirSync(networks);
    const list = bridgeList(this.network, join(this.root, 'addresses'));
    writeFileSync(join(networks, '10-test.conflist'), JSON.stringify(list));
    for (const host of options.mirrored ?? []) {
      const folder = join(this.root, 'hosts', host);
      mkdirSync(folder, { recursive: true });
      const mirror = `http://${options.mirror}`;
      const lines = [`server = "${mirror}"`, `[host."${mirror}"]`, 'capabilities = ["pull", "resolve"]'];
      writeFileSync(join(folder, 'hosts.toml'), `${lines.join('\n')}\n`);
    }
    writeFileSync(join(this.root, 'config.toml'), this.#configuration(options.pauseImage));
  }

  /** Starts it and returns when it serves. Throws with the end of its log when it does not. */
  async start(): Promise<void> {
    const logFile = join(this.root, 'containerd.log');
    const log = openSync(logFile, 'a');
    const child = spawn('/usr/bin/containerd', ['--config', join(this.root, 'config.toml')], {
      stdio: ['ignore', log, log],
      detached: true,
    });
    closeSync(log);
    this.#process = child;
    const giveUpAt = Date.now() + START_TIMEOUT_MS;
    while (!readFileSync(logFile, 'utf8').includes('containerd successfully booted')) {
      if (child.exitCode !== null || Date.now() > giveUpAt)
        throw new Error(`containerd does not serve:\n${readFileSync(logFile, 'utf8').slice(-3000)}`);
      await delay(20);
    }
  }

  /** Stops it and removes its folders, its bridge and what it left. */
  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null) {
      const end = once(child, 'exit');
      child.kill('SIGTERM');
      await end;
    }
    const { bridge } = this.network;
    if (readLinks().includes(bridge)) execFileSync('ip', ['link', 'delete', bridge]);
    writeFileSync(FORWARDING, this.#forwarding);
    this.network.free();
    const ours = readMounts().filter((point) => [this.root, this.state].some((top) => point.startsWith(`${top}/`)));
    for (const point of ours.reverse()) execFileSync('umount', ['--lazy', point]);
    for (const folder of [this.root, this.state]) rmSync(folder, { recursive: true, force: true });
    if (!this.#hadShims) removeEmpty([join(SHIM_FOLDER, 's'), SHIM_FOLDER]);
    this.#removeCgroups();
  }

  /** Parents that it makes for pods stay when the pods go. */
  #removeCgroups(): void {
    const made = readCgroups().filter(
      (path) => !this.#cgroups.has(path) && /\/(system\.slice|k8s\.io)(\/|$)/.test(path),
    );
    removeEmpty(made.sort((one, other) => other.length - one.length));
  }

  #configuration(pauseImage: string): string {
    const cri = 'plugins."io.containerd.grpc.v1.cri"';
    const snapshotters = ['aufs', 'btrfs', 'devmapper', 'zfs'].map((name) => `"io.containerd.snapshotter.v1.${name}"`);
    const lines = [
      'version = 2',
      `root = "${this.root}/root"`,
      `state = "${this.state}/state"`,
      `disabled_plugins = [${snapshotters.join(', ')}]`,
      '[grpc]',
      `address = "${this.state}/containerd.sock"`,
      '[plugins."io.containerd.internal.v1.opt"]',
      `path = "${this.root}/opt"`,
      `[${cri}]`,
      `sandbox_image = "${pauseImage}"`,
      // Without CAP_SYS_RESOURCE the kernel refuses the pause's -998.
      'restrict_oom_score_adj = true',
      `[${cri}.cni]`,
      'bin_dir = "/usr/lib/cni"',
      `conf_dir = "${this.root}/net.d"`,
      `[${cri}.registry]`,
      `config_path = "${this.root}/hosts"`,
      `[${cri}.containerd.runtimes.runc]`,
      'runtime_type = "io.containerd.runc.v2"',
      `[${cri}.containerd.runtimes.runc.options]`,
      `Root = "${this.state}/runtime"`,
    ];
    return `${lines.join('\n')}\n`;
  }
}

/** Removes folders that are empty; others stay. */
function removeEmpty(folders: readonly string[]): void {
  for (const folder of folders) {
    try {
      if (folder.startsWith('/sys/fs/cgroup') || readdirSync(folder).length === 0) rmdirSync(folder);
    } catch {
      // Somebody uses it, or it has gone.
    }
  }
}
