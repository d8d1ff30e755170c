import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { buildBusyboxLayout } from '../../test/fakes/images.ts';
import { assertNothingLeft, type MachineState, readLinks, readMachineState } from '../../test/harness/machine-state.ts';

/** The checkout. */
export const repository: string = fileURLToPath(new URL('../..', import.meta.url));

const CGROUPS = '/sys/fs/cgroup';
/** The bridge plugin switches it on for good. */
const FORWARDING = '/proc/sys/net/ipv4/ip_forward';

/** Reference of the image that pods of a bench are made of. */
export const BENCH_IMAGE = 'localhost/berth-bench/busybox:1';

/**
 * What daemons of a bench share: a folder on the disk and one for state, a network on a bridge of its own, an image.
 * `close` removes it all and throws, naming what is left, unless the machine is as it was.
 */
export class BenchLab {
  readonly #before: MachineState;
  /** On the disk, as /var/lib is. */
  readonly root: string;
  /** Beside the state of other runtimes, on a tmpfs where /run is one. */
  readonly state: string;
  readonly cniConfDir: string;
  /** The configuration list of the pods' network. */
  readonly network: string;
  readonly logDirectory: string;
  /** All pods of the bench are below it. */
  readonly cgroupParent: string;
  readonly #bridge: string;
  readonly #forwarding = readFileSync(FORWARDING, 'utf8');

  /** With `tmpfs` the state is on one even where /run is on the disk. */
  constructor({ tmpfs }: { readonly tmpfs: boolean }) {
    this.#before = readMachineState();
    this.root = mkdtempSync('/var/lib/berth-bench-');
    this.state = join('/run', basename(this.root));
    this.cniConfDir = join(this.root, 'net.d');
    this.network = join(this.cniConfDir, '10-bench.conflist');
    this.logDirectory = join(this.root, 'logs');
    this.cgroupParent = `/${basename(this.root)}`;
    this.#bridge = `bench${randomBytes(4).toString('hex')}`;
    for (const folder of [this.state, this.cniConfDir, this.logDirectory]) mkdirSync(folder, { recursive: true });
    if (tmpfs) execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', this.state]);
    // The kubelet makes the cgroups of pods before it asks for a pod.
    this.#makeCgroups();
    writeFileSync(this.network, JSON.stringify(this.#networkConfiguration()));
  }

  /** Makes the busybox image as an OCI layout and returns its folder. */
  async makeImage(): Promise<string> {
    const dir = join(this.root, 'layout');
    await buildBusyboxLayout(dir, { tag: BENCH_IMAGE });
    return dir;
  }

  /** Throws when the daemons did not take everything away themselves; then it goes here, as far as it can. */
  async close(): Promise<void> {
    const processes = await this.#removeCgroups();
    const mounts = this.#removeMounts();
    writeFileSync(FORWARDING, this.#forwarding);
    if (readLinks().includes(this.#bridge)) execFileSync('ip', ['link', 'delete', this.#bridge]);
    rmSync(this.root, { recursive: true, force: true });
    rmSync(this.state, { recursive: true, force: true });
    if (processes.length > 0) throw new Error(`the daemons left processes: ${processes.join(', ')}`);
    if (mounts.length > 0) throw new Error(`the daemons left mounts: ${mounts.join(', ')}`);
    try {
      await assertNothingLeft(this.#before);
    } catch (err) {
      // Without the comparison that node:assert adds.
      if (err instanceof Error) err.message = err.message.split('\n+ actual', 1).join();
      throw err;
    }
  }

  /** Kills what is in the pods' cgroup and removes it. Returns the processes that were there. */
  async #removeCgroups(): Promise<string[]> {
    const folders = this.#cgroups().flatMap((top) => (existsSync(top) ? [...foldersBelow(top), top] : []));
    const processes = new Set(
      folders.flatMap((folder) => readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)),
    );
    for (const pid of processes) process.kill(Number(pid), 'SIGKILL');
    for (const folder of folders) {
      // The dying leave their cgroup a moment later, and nothing tells when in version 1.
      for (let left = 100; processes.size > 0 && left > 0 && !isEmpty(folder); left--) await setTimeout(20);
      rmdirSync(folder);
    }
    return [...processes];
  }

  /** Takes away what would lead the removal of the folders astray. Returns what was there. */
  #removeMounts(): string[] {
    const found = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => path === this.state || [this.root, this.state].some((dir) => path.startsWith(`${dir}/`)));
    for (const path of found.toReversed()) execFileSync('umount', ['--lazy', path]);
    return found.filter((path) => path !== this.state);
  }

  /** The pods' cgroup in each hierarchy: one in version 2, one for each controller in version 1. */
  #cgroups(): string[] {
    const hierarchies = existsSync(join(CGROUPS, 'cgroup.procs'))
      ? [CGROUPS]
      : readdirSync(CGROUPS, { withFileTypes: true })
          .filter((entry) => entry.isDirectory() && existsSync(join(CGROUPS, entry.name, 'cgroup.procs')))
          .map((entry) => join(CGROUPS, entry.name));
    return hierarchies.map((folder) => join(folder, this.cgroupParent));
  }

  #makeCgroups(): void {
    for (const folder of this.#cgroups()) {
      mkdirSync(folder, { recursive: true });
      // Version 1 takes no process into a cpuset before these are set.
      for (const name of ['cpuset.cpus', 'cpuset.mems']) {
        const inherited = join(dirname(folder), name);
        if (/\/cpuset\//.test(folder) && existsSync(inherited)) {
          writeFileSync(join(folder, name), readFileSync(inherited, 'utf8'));
        }
      }
    }
  }

  /** RFC 2544 keeps 198.18.0.0/15 for benchmarks: no network of the machine is in the way. */
  #networkConfiguration(): object {
    return {
      cniVersion: '0.4.0',
      name: 'berth-bench',
      plugins: [
        {
          type: 'bridge',
          bridge: this.#bridge,
          isGateway: true,
          ipMasq: true,
          ipam: {
            type: 'host-local',
            dataDir: join(this.root, 'addresses'),
            ranges: [[{ subnet: '198.18.0.0/16' }]],
            routes: [{ dst: '0.0.0.0/0' }],
          },
        },
      ],
    };
  }
}

/** All folders below one, the deepest first. */
function foldersBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name))
    .flatMap((path) => [...foldersBelow(path), path]);
}

function isEmpty(cgroup: string): boolean {
  return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8') === '';
}
