import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { BerthError, wrap } from '../base/errors.ts';
import { specJson } from './oci-json.ts';
import type { OciProcess, OciSpec } from './oci-spec.ts';
import { findByOptions, findNamedIn, type ProcessIdentity } from './process-identity.ts';

/** What the names of files begin with that only a command needs while it runs in the container. */
export const EXEC_FILE_PREFIX = 'exec-';

/** The files of one container's bundle; the last seven are the monitor's. */
export interface BundlePaths {
  readonly folder: string;
  readonly config: string;
  /** A link to the mounted root filesystem, for people and their tools; config.json names the real path. */
  readonly rootfs: string;
  readonly pidFile: string;
  readonly monitorPidFile: string;
  /** What the monitor and the runtime had to say while the container was created. */
  readonly monitorLog: string;
  /** The monitor takes orders here, such as to reopen the log. */
  readonly control: string;
  /** It takes sizes of the terminal's window here. */
  readonly window: string;
  /** A socket at which the monitor lets clients take part in the container's streams. */
  readonly attach: string;
  /** The monitor leaves this behind when the kernel told it of a lack of memory. */
  readonly oom: string;
}

/**
 * The bundles of all containers: `<state>/containers/<id>/`, readable by root only, because environment variables are
 * often secrets. Flat folders: nothing is ever mounted in them.
 */
export class Bundles {
  readonly #folder: string;

  constructor(stateDir: string) {
    this.#folder = join(stateDir, 'containers');
  }

  /** Where the files of a container's bundle are, whether it exists or not. */
  paths(containerId: string): BundlePaths {
    const folder = join(this.#folder, containerId);
    return {
      folder,
      config: join(folder, 'config.json'),
      rootfs: join(folder, 'rootfs'),
      pidFile: join(folder, 'pid'),
      monitorPidFile: join(folder, 'monitor.pid'),
      monitorLog: join(folder, 'monitor.log'),
      control: join(folder, 'ctl'),
      window: join(folder, 'winsz'),
      attach: join(folder, 'attach'),
      oom: join(folder, 'oom'),
    };
  }

  /** Writes a new bundle. Throws `alreadyExists` when the container has one. */
  write(containerId: string, spec: OciSpec): BundlePaths {
    const paths = this.paths(containerId);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    try {
      mkdirSync(paths.folder, { mode: 0o700 });
    } catch (err) {
      throw fileError(`make bundle ${paths.folder}`, err);
    }
    writeFileSync(paths.config, specJson(spec), { mode: 0o600, flag: 'wx' });
    symlinkSync(spec.root.path, paths.rootfs);
    return paths;
  }

  /** True when the container has a bundle. */
  has(containerId: string): boolean {
    return existsSync(this.paths(containerId).config);
  }

  /** True when the monitor has seen the OOM killer end a process of the container. */
  hasRunOutOfMemory(containerId: string): boolean {
    return existsSync(this.paths(containerId).oom);
  }

  /** The container's config.json. Throws `notFound`. */
  readSpec(containerId: string): OciSpec {
    const { config } = this.paths(containerId);
    try {
      return JSON.parse(readFileSync(config, 'utf8')) as OciSpec;
    } catch (err) {
      throw fileError(`read ${config}`, err);
    }
  }

  /** The process section of the container's config.json: what an exec starts from. Throws `notFound`. */
  readProcess(containerId: string): OciProcess {
    return this.readSpec(containerId).process;
  }

  /**
   * The container's monitors that still run: one as a rule. A daemon that was killed while it started one may have left
   * it, and what launches it, without a pid file; then all of /proc is read.
   */
  findMonitors(containerId: string): ProcessIdentity[] {
    const { folder, monitorPidFile } = this.paths(containerId);
    const known = findNamedIn(monitorPidFile, containerId);
    if (known) return [known];
    return existsSync(folder) ? findByOptions({ '--cid': containerId, '--bundle': folder }) : [];
  }

  /** Removes what the commands of a daemon that was killed have left: each of them is killed with its daemon. */
  removeExecFiles(containerId: string): void {
    const { folder } = this.paths(containerId);
    try {
      const left = readdirSync(folder).filter((name) => name.startsWith(EXEC_FILE_PREFIX));
      for (const name of left) rmSync(join(folder, name), { force: true });
    } catch (err) {
      if (codeOf(err) !== 'ENOENT') throw wrap(`remove files of commands in ${folder}`, err);
    }
  }

  /** Removes a bundle. Missing is fine. Never enters a folder, so that it can never walk into a mount. */
  remove(containerId: string): void {
    const { folder } = this.paths(containerId);
    try {
      for (const name of readdirSync(folder)) unlinkSync(join(folder, name));
      rmdirSync(folder);
    } catch (err) {
      if (codeOf(err) !== 'ENOENT') throw wrap(`remove bundle ${folder}`, err);
    }
  }

  /** The ids of all containers that have a bundle, for reconcile. */
  ids(): string[] {
    try {
      return readdirSync(this.#folder);
    } catch (err) {
      if (codeOf(err) === 'ENOENT') return [];
      throw wrap(`list bundles in ${this.#folder}`, err);
    }
  }
}

function fileError(what: string, cause: unknown): BerthError {
  const code = codeOf(cause);
  if (code === 'ENOENT') return new BerthError('notFound', what, { cause });
  return code === 'EEXIST' ? new BerthError('alreadyExists', what, { cause }) : wrap(what, cause);
}

function codeOf(err: unknown): unknown {
  return err instanceof Error && 'code' in err ? err.code : undefined;
}
