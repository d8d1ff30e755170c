import { hash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import { readBootId } from '../sys/boot-id.ts';
import type { Cgroups } from './cgroups/cgroups.ts';
import type { Handler } from './handler.ts';
import { globalArgs, OciRuntime } from './oci-runtime.ts';
import { runtimeMessage } from './runtime-output.ts';
import { buildMounts } from './spec-mounts.ts';

/** How a handler's self-test ended. */
export interface HandlerTrial {
  readonly passed: boolean;
  /** The runtime's own words when it failed. */
  readonly reason: string;
  /** False where the trial could not be held: another one may end otherwise. */
  readonly isFinal: boolean;
}

/** What a trial asks of the host's cgroups. */
export type TrialCgroups = Pick<
  Cgroups,
  'driver' | 'existingParent' | 'containerCgroupsPath' | 'containerAnnotations' | 'container'
>;

const TRIAL_TIMEOUT_MS = 20_000;
const DELETE_TIMEOUT_MS = 10_000;
const PIDS_LIMIT = 10;
const CACHE_FILE = 'handler-trials.json';
const NO_FILES = { resolvConf: '', hostname: '', hosts: '', shm: '' };
const PLAIN = { privileged: false, readonlyRootfs: true };

/**
 * Finds out whether runtimes work on this host, by creating and deleting a tiny container with each. The answers are
 * kept in the state folder until the program, the kernel, or the host's cgroup hierarchies change.
 */
export class HandlerTrials {
  readonly #stateDir: string;
  readonly #pausePath: string;
  readonly #cgroups: TrialCgroups;
  readonly #processes: Pick<Processes, 'run' | 'start'>;
  readonly #log: Logger;

  constructor(deps: {
    readonly stateDir: string;
    readonly pausePath: string;
    readonly cgroups: TrialCgroups;
    readonly processes: Pick<Processes, 'run' | 'start'>;
    readonly log: Logger;
  }) {
    this.#stateDir = deps.stateDir;
    this.#pausePath = deps.pausePath;
    this.#cgroups = deps.cgroups;
    this.#processes = deps.processes;
    this.#log = deps.log;
  }

  /** Tries all handlers side by side; by name. Never fails: a trial that cannot be held has not been passed. */
  async run(handlers: readonly Handler[], signal: AbortSignal): Promise<Map<string, HandlerTrial>> {
    const known = this.#readCache();
    const results = await Promise.all(
      handlers.map(async (handler) => {
        const key = this.#cacheKey(handler);
        const trial = known.get(key) ?? (await this.#try(handler, signal));
        return { name: handler.name, key, trial };
      }),
    );
    signal.throwIfAborted();
    const final = results.filter(({ trial }) => trial.isFinal);
    this.#writeCache(Object.fromEntries(final.map(({ key, trial }) => [key, trial])));
    return new Map(results.map(({ name, trial }) => [name, trial]));
  }

  async #try(handler: Handler, signal: AbortSignal): Promise<HandlerTrial> {
    const bundle = join(this.#stateDir, `trial-${handler.name}`);
    // The same at each start, so that the next one finds what is left of this; another one for another daemon.
    const id = `trial-${handler.name}-${hash('sha256', this.#stateDir).slice(0, 12)}`;
    const runtime = new OciRuntime(handler, this.#processes);
    using deadline = withDeadline(`trial of runtime handler ${handler.name}`, TRIAL_TIMEOUT_MS, signal);
    try {
      await this.#delete(runtime, id);
      this.#writeBundle(bundle, id);
      const reason = await this.#create(handler, bundle, id, deadline);
      return { passed: reason === '', reason, isFinal: true };
    } catch (err) {
      // A machine that is slow today says nothing about the runtime.
      return { passed: false, reason: describe(err), isFinal: false };
    } finally {
      await this.#delete(runtime, id);
      rmSync(bundle, { recursive: true, force: true });
    }
  }

  // With a deadline of its own: the trial's may be what has passed.
  async #delete(runtime: OciRuntime, id: string): Promise<void> {
    using deadline = withDeadline(`end of trial ${id}`, DELETE_TIMEOUT_MS);
    await runtime.delete(id, { force: true }, deadline).catch((err: unknown) => {
      this.#log.debug({ id, err: describe(err) }, 'nothing to delete of a trial');
    });
    try {
      // runc says that all is well when a killed process was too slow to leave its cgroup, and forgets the cgroup.
      const cgroup = this.#cgroups.container(this.#cgroups.existingParent, id);
      cgroup.killAll();
      await cgroup.remove(deadline);
    } catch (err) {
      this.#log.warn({ id, err: describe(err) }, 'the cgroup of a trial is left');
    }
  }

  /** The reason of a failure, '' for success. */
  async #create(handler: Handler, bundle: string, id: string, signal: AbortSignal): Promise<string> {
    const messages = join(bundle, 'messages');
    // A file and no pipe: the created process holds on to it until it is deleted.
    const output = openSync(messages, 'w', 0o600);
    try {
      const child = await this.#processes.start(
        {
          path: handler.path,
          args: [
            ...globalArgs(handler),
            ...(this.#cgroups.driver === 'systemd' ? ['--systemd-cgroup'] : []),
            ...['create', '--bundle', bundle, id],
          ],
          stdin: 'ignore',
          stdout: output,
          stderr: output,
        },
        signal,
      );
      const { exitCode } = await this.#await(child, signal);
      if (exitCode === 0) return '';
      return runtimeMessage(readFileSync(messages, 'utf8')) || `exit code ${exitCode} and no message`;
    } finally {
      closeSync(output);
    }
  }

  async #await(child: ChildProcess, signal: AbortSignal): ChildProcess['exited'] {
    try {
      return await raceSignal(child.exited, signal);
    } catch (err) {
      child.kill('SIGKILL');
      throw err;
    }
  }

  #writeBundle(bundle: string, id: string): void {
    rmSync(bundle, { recursive: true, force: true });
    const rootfs = join(bundle, 'rootfs');
    for (const name of ['dev', 'proc', 'sys']) mkdirSync(join(rootfs, name), { recursive: true, mode: 0o700 });
    copyFileSync(this.#pausePath, join(rootfs, 'pause'));
    const cgroupsPath = this.#cgroups.containerCgroupsPath(this.#cgroups.existingParent, id);
    const annotations = this.#cgroups.containerAnnotations({ hugepageLimits: [], unified: {} }, PIDS_LIMIT);
    const spec = { ...trialSpec(rootfs, cgroupsPath), annotations };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600 });
  }

  #cacheKey(handler: Handler): string {
    const { mtimeMs, size } = statSync(handler.path);
    return JSON.stringify([handler.name, handler.path, mtimeMs, size, this.#cgroups.driver, hostKey()]);
  }

  #readCache(): Map<string, HandlerTrial> {
    try {
      const cache: unknown = JSON.parse(readFileSync(join(this.#stateDir, CACHE_FILE), 'utf8'));
      if (typeof cache !== 'object' || cache === null) return new Map();
      return new Map(Object.entries(cache).filter((entry): entry is [string, HandlerTrial] => isTrial(entry[1])));
    } catch {
      // No file, or a broken one: the trials are held again.
      return new Map();
    }
  }

  #writeCache(trials: Readonly<Record<string, HandlerTrial>>): void {
    const file = join(this.#stateDir, CACHE_FILE);
    try {
      writeFileSync(`${file}.new`, JSON.stringify(trials), { mode: 0o600 });
      renameSync(`${file}.new`, file);
    } catch (err) {
      this.#log.warn({ err: describe(err) }, 'results of the handler trials cannot be kept');
    }
  }
}

/** What makes runtimes change their minds: another kernel, another boot, cgroup controllers elsewhere. */
function hostKey(): string {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  // Name, hierarchy and whether it is enabled; the third field counts cgroups and changes all the time.
  const controllers = readFileSync('/proc/cgroups', 'utf8')
    .replace(/^(\S+\s+\S+)\s+\S+/gm, '$1')
    .split('\n');
  return [release(), readBootId(), ...mounts.filter((line) => / cgroup2? /.test(line)), ...controllers].join('|');
}

// All that a real container has of the kernel's file systems and controllers: one of them may be the one that fails.
function trialSpec(rootfs: string, cgroupsPath: string): object {
  const none = { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] };
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ['/pause'],
      env: ['PATH=/'],
      cwd: '/',
      capabilities: none,
      noNewPrivileges: true,
    },
    root: { path: rootfs, readonly: true },
    mounts: buildMounts(NO_FILES, { mounts: [], rootfsPropagation: undefined }, PLAIN).filter(
      ({ type }) => type !== 'bind',
    ),
    linux: {
      cgroupsPath,
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }],
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        cpu: { shares: 2 },
        memory: { limit: 64 * 1024 * 1024 },
        pids: { limit: PIDS_LIMIT },
      },
    },
  };
}

function isTrial(value: unknown): value is HandlerTrial {
  return typeof value === 'object' && value !== null && 'passed' in value && 'reason' in value && 'isFinal' in value;
}
