import { randomInt } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';

import { BerthError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { SelinuxOptions } from './container-spec.ts';

/** What SELinux labels are made from here. */
export interface SelinuxDeps {
  /** Whether the node's owner wants labels at all. */
  readonly isWanted: boolean;
  readonly log: Logger;
  /** The kernel's and the policy's own files unless a test says otherwise. */
  readonly files?: { readonly enforce: string; readonly folder: string };
}

/** The labels of one container. */
export interface SelinuxLabels {
  /** Undefined: whatever the policy gives to what the runtime starts. */
  readonly process: string | undefined;
  /** For its root filesystem, its tmpfs, and volumes that shall be its own. */
  readonly files: string;
}

/** Whose labels are wanted. */
export interface LabelRequest {
  /** The container's, else the pod's. */
  readonly options: SelinuxOptions | undefined;
  /** The pod's own: newLevel() made it. */
  readonly level: string;
  /** True for one that may do anything, or that shares processes or memory with the host: no label would fit. */
  readonly isUnbounded: boolean;
}

const FILES = Object.freeze({ enforce: '/sys/fs/selinux/enforce', folder: '/etc/selinux' });
/** The type of "super privileged containers" in every policy that knows containers (container_selinux(8)). */
const UNCONFINED_TYPE = 'spc_t';
/** Categories c0 to c1023, as the targeted policy has them. */
const CATEGORIES = 1024;
const MAX_TRIES = 10_000;

/** SELinux labels for containers, where the kernel has it and the host's policy knows containers. */
export class Selinux {
  readonly #contexts: { readonly process: Label; readonly files: Label } | undefined;
  readonly #whyOff: string = 'the SELinux policy of this host has no labels for containers';

  constructor({ isWanted, log, files = FILES }: SelinuxDeps) {
    if (!existsSync(files.enforce)) {
      this.#whyOff = 'this kernel has no SELinux, or it is turned off';
      return;
    }
    if (!isWanted) {
      this.#whyOff = 'runtime.selinux is false in the configuration';
      return;
    }
    const text = readContexts(files.folder);
    const [process, own] = [parseLabel(contextOf(text, 'process')), parseLabel(contextOf(text, 'file'))];
    if (process && own) this.#contexts = { process, files: own };
    else
      log.warn({ folder: files.folder }, 'containers get no SELinux labels: the policy of this host has none for them');
  }

  get isEnabled(): boolean {
    return this.#contexts !== undefined;
  }

  /**
   * A level for a new pod, two categories that no other pod has: what keeps pods apart. Undefined where SELinux is off.
   * Throws `exhausted` when all half a million pairs seem taken.
   */
  newLevel(taken: ReadonlySet<string>): string | undefined {
    if (!this.#contexts) return undefined;
    const sensitivity = this.#contexts.process.level.split(':', 1)[0] || 's0';
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const [a, b] = [randomInt(CATEGORIES), randomInt(CATEGORIES)];
      const level = `${sensitivity}:c${Math.min(a, b)},c${Math.max(a, b)}`;
      if (a !== b && !taken.has(level)) return level;
    }
    throw new BerthError('exhausted', 'no SELinux level is left for another pod');
  }

  /**
   * Throws `precondition` when a type, a role or a user is demanded that nothing here enforces: a pod that relies on
   * being confined must not run without. `spc_t` asks for no confinement, which is what one has then: many charts of node
   * agents say so whatever the node is. A level alone only keeps pods apart that have labels: Kubernetes' own conformance
   * tests give one on every node.
   */
  checkDemand(options: SelinuxOptions | undefined, field: string): void {
    if (this.#contexts || !options || options.type === UNCONFINED_TYPE) return;
    if (options.type === '' && options.role === '' && options.user === '') return;
    const asked = [options.user, options.role, options.type, options.level].join(':');
    throw new BerthError('precondition', `${field}: SELinux label ${asked} is asked for, and ${this.#whyOff}`);
  }

  /** The labels of a container; undefined where SELinux is off: see checkDemand(). */
  labelsFor({ options, level, isUnbounded }: LabelRequest): SelinuxLabels | undefined {
    if (!this.#contexts) return undefined;
    const { process, files } = this.#contexts;
    const own = options?.level || level;
    return {
      process:
        isUnbounded && !options?.type
          ? undefined
          : showLabel({
              user: options?.user || process.user,
              role: options?.role || process.role,
              type: options?.type || process.type,
              level: own,
            }),
      files: showLabel({ ...files, level: own }),
    };
  }
}

type Label = SelinuxOptions;

function showLabel({ user, role, type, level }: Label): string {
  return [user, role, type, level].join(':');
}

function parseLabel(text: string): Label | undefined {
  const [, user = '', role = '', type = '', level = ''] = /^([^:]+):([^:]+):([^:]+)(?::(.+))?$/.exec(text) ?? [];
  return type === '' ? undefined : { user, role, type, level };
}

/** The policy's contexts for containers (selinux_lxc_contexts_path(3)); '' where it has none. */
function readContexts(folder: string): string {
  try {
    const config = readFileSync(`${folder}/config`, 'utf8');
    const policy = /^\s*SELINUXTYPE\s*=\s*([\w.-]+)/m.exec(config)?.[1] ?? 'targeted';
    return readFileSync(`${folder}/${policy}/contexts/lxc_contexts`, 'utf8');
  } catch {
    return '';
  }
}

function contextOf(text: string, name: string): string {
  return new RegExp(`^\\s*${name}\\s*=\\s*"([^"]*)"`, 'm').exec(text)?.[1] ?? '';
}
