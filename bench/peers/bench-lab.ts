import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { buildBusyboxLayout } from '../../test/fakes/images.ts';
import { assertNothingLeft, type MachineState, readMachineState } from '../../test/harness/machine-state.ts';

/** The checkout. */
export const repository: string = fileURLToPath(new URL('../..', import.meta.url));

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
  readonly logDirectory: string;
  /** All pods of the bench are below it. */
  readonly cgroupParent: string;
  readonly #bridge: string;

  constructor() {
    this.#before = readMachineState();
    this.root = mkdtempSync('/var/lib/berth-bench-');
    this.state = join('/run', basename(this.root));
    this.cniConfDir = join(this.root, 'net.d');
    this.logDirectory = join(this.root, 'logs');
    this.cgroupParent = `/${basename(this.root)}`;
    this.#bridge = `bench${randomBytes(4).toString('hex')}`;
    for (const folder of [this.state, this.cniConfDir, this.logDirectory]) mkdirSync(folder, { recursive: true });
    writeFileSync(join(this.cniConfDir, '10-bench.conflist'), JSON.stringify(this.#network()));
  }

  /** Makes the busybox image as an OCI layout and returns its folder. */
  async makeImage(): Promise<string> {
    const dir = join(this.root, 'layout');
    await buildBusyboxLayout(dir, { tag: BENCH_IMAGE });
    return dir;
  }

  close(): void {
    const mounts = this.#removeMounts();
    if (existsSync(`/sys/class/net/${this.#bridge}`)) execFileSync('ip', ['link', 'delete', this.#bridge]);
    const cgroups = globSync(`/sys/fs/cgroup/{,*/}${basename(this.cgroupParent)}`);
    for (const folder of cgroups) rmdirSync(folder);
    rmSync(this.root, { recursive: true, force: true });
    rmSync(this.state, { recursive: true, force: true });
    if (mounts.length > 0) throw new Error(`the daemons left mounts: ${mounts.join(', ')}`);
    assertNothingLeft(this.#before);
  }

  /** Takes away what would lead the removal of the folders astray. Returns what was there. */
  #removeMounts(): string[] {
    const found = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => path.startsWith(`${this.root}/`) || path.startsWith(`${this.state}/`));
    for (const path of found.toReversed()) execFileSync('umount', ['--lazy', path]);
    return found;
  }

  /** RFC 2544 keeps 198.18.0.0/15 for benchmarks: no network of the machine is in the way. */
  #network(): object {
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
