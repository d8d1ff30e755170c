import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

import { BerthError, because, describe, wrap } from '../base/errors.ts';
import { InFlight } from '../base/in-flight.ts';
import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import { BUILT_IN_PROFILE, builtInProfile } from './apparmor-profile.ts';
import type { SecurityProfile } from './container-spec.ts';
import { findProgram } from './handlers.ts';

const ENABLED = '/sys/module/apparmor/parameters/enabled';
const LOADED = '/sys/kernel/security/apparmor/profiles';
const LOAD_TIMEOUT_MS = 30_000;

/** What AppArmor is made of here. */
export interface AppArmorDeps {
  /** What RuntimeDefault stands for: a profile's name, or `unconfined`. */
  readonly defaultProfile: string;
  readonly processes: Pick<Processes, 'runOk'>;
  readonly log: Logger;
  /** The kernel's own files unless a test says otherwise. */
  readonly files?: { readonly enabled: string; readonly loaded: string };
}

/** Profiles that confine containers, where the kernel has AppArmor. */
export class AppArmor {
  readonly #deps: AppArmorDeps;
  readonly #loaded: string;
  readonly #loads = new InFlight<void>();
  readonly isEnabled: boolean;
  #warned = false;

  constructor(deps: AppArmorDeps) {
    this.#deps = deps;
    const { enabled, loaded } = deps.files ?? { enabled: ENABLED, loaded: LOADED };
    this.#loaded = loaded;
    this.isEnabled = isAppArmorEnabled(enabled);
  }

  /** Loads the built-in profile, so that the first container does not wait for it. Never throws. */
  async start(signal: AbortSignal): Promise<void> {
    await this.resolve(undefined, signal).catch((err: unknown) => this.#warn(err));
  }

  /**
   * The name of the profile for a container; undefined for none. Without a demand, or for RuntimeDefault, none where the
   * kernel has no AppArmor, as the peers have it. Throws `precondition` when a profile that is demanded cannot be had.
   */
  async resolve(demand: SecurityProfile | undefined, signal: AbortSignal): Promise<string | undefined> {
    if (demand?.type === 'unconfined') return undefined;
    if (demand?.type === 'localhost') return await this.#localhost(demand.reference.replace(/^localhost\//, ''));
    const name = this.#deps.defaultProfile;
    if (!this.isEnabled || name === 'unconfined') return undefined;
    try {
      if (!(await this.#isLoaded(name))) await this.#load(name, signal);
      return name;
    } catch (err) {
      if (demand || name !== BUILT_IN_PROFILE) throw err;
      this.#warn(err);
      return undefined;
    }
  }

  async #localhost(name: string): Promise<string> {
    if (!this.isEnabled)
      throw new BerthError('precondition', `AppArmor profile ${name} is asked for, and this kernel has no AppArmor`);
    if (await this.#isLoaded(name)) return name;
    throw new BerthError('precondition', `AppArmor profile ${name} is not loaded on this host`);
  }

  // Asked each time: `systemctl reload apparmor` and aa-remove-unknown take profiles away that have no file.
  async #isLoaded(name: string): Promise<boolean> {
    try {
      return parseProfiles(await readFile(this.#loaded, 'utf8')).has(name);
    } catch (err) {
      throw wrap(`read ${this.#loaded}`, err);
    }
  }

  async #load(name: string, signal: AbortSignal): Promise<void> {
    if (name !== BUILT_IN_PROFILE) {
      throw new BerthError('precondition', `AppArmor profile ${name} of runtime.apparmor_profile is not loaded`);
    }
    await this.#loads.join(name, signal, async () => {
      // Another caller may have been faster.
      if (await this.#isLoaded(name)) return;
      try {
        const path = findProgram('apparmor_parser', `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`);
        const args = ['--replace', '--skip-cache'];
        const command = { path, args, stdin: builtInProfile(), timeoutMs: LOAD_TIMEOUT_MS };
        await this.#deps.processes.runOk(command, new AbortController().signal);
      } catch (err) {
        throw because('precondition', `AppArmor profile ${name} cannot be loaded`, err);
      }
    });
  }

  #warn(err: unknown): void {
    if (this.#warned) return;
    this.#warned = true;
    this.#deps.log.warn(
      { err: describe(err) },
      'containers that do not ask for a profile run without AppArmor; on Debian: apt-get install apparmor',
    );
  }
}

/** Profile names in the text of /sys/kernel/security/apparmor/profiles: `name (enforce)` per line. */
export function parseProfiles(text: string): Set<string> {
  return new Set(text.split('\n').flatMap((line) => /^(.+) \([a-z]+\)$/.exec(line)?.[1] ?? []));
}

/** Whether the kernel has AppArmor, and it is on; `file` is its parameter. */
export function isAppArmorEnabled(file = ENABLED): boolean {
  try {
    return readFileSync(file, 'utf8').startsWith('Y');
  } catch {
    // A kernel that was built without it.
    return false;
  }
}
