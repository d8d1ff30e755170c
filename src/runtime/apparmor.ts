import { hash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';

import { BerthError, because, describe, wrap } from '../base/errors.ts';
import { InFlight } from '../base/in-flight.ts';
import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import { BUILT_IN_PROFILE, builtInProfile } from './apparmor-profile.ts';
import type { SecurityProfile } from './container-spec.ts';
import { findProgram } from './handlers.ts';

const ENABLED = '/sys/module/apparmor/parameters/enabled';
const LOADED = '/sys/kernel/security/apparmor/profiles';
/** Whoever has it as a file loads it, and may have changed it. */
const OWNER_FILE = `/etc/apparmor.d/${BUILT_IN_PROFILE}`;
const LOAD_TIMEOUT_MS = 30_000;

/** What AppArmor is made of here. */
export interface AppArmorDeps {
  /** What RuntimeDefault stands for: a profile's name, or `unconfined`. */
  readonly defaultProfile: string;
  readonly processes: Pick<Processes, 'runOk'>;
  readonly log: Logger;
  /** Where it is noted which text of the built-in profile was loaded; it need not outlive a reboot, as that does not. */
  readonly noteFile: string;
  /** The kernel's own files, and the owner's, unless a test says otherwise. */
  readonly files?: { readonly enabled: string; readonly loaded: string; readonly owner: string };
}

/** Profiles that confine containers, where the kernel has AppArmor. */
export class AppArmor {
  readonly #deps: AppArmorDeps;
  readonly #loaded: string;
  readonly #ownerFile: string;
  readonly #loads = new InFlight<void>();
  readonly isEnabled: boolean;
  #warned = false;

  constructor(deps: AppArmorDeps) {
    this.#deps = deps;
    const { enabled, loaded, owner } = deps.files ?? { enabled: ENABLED, loaded: LOADED, owner: OWNER_FILE };
    this.#loaded = loaded;
    this.#ownerFile = owner;
    this.isEnabled = isAppArmorEnabled(enabled);
  }

  /**
   * Loads the built-in profile, so that the first container does not wait for it, and again when an earlier version of
   * Berth has loaded another text: containers that run get that one too. Never throws.
   */
  async start(signal: AbortSignal): Promise<void> {
    try {
      if ((await this.resolve(undefined, signal)) !== BUILT_IN_PROFILE) return;
    } catch (err) {
      this.#warn(err);
      return;
    }
    if (existsSync(this.#ownerFile) || this.#isOwnText()) return;
    try {
      await this.#load(signal);
      this.#deps.log.info(
        { profile: BUILT_IN_PROFILE },
        'the AppArmor profile of an earlier version has been replaced',
      );
    } catch (err) {
      this.#deps.log.warn({ err: describe(err) }, 'containers keep the AppArmor profile of an earlier version');
    }
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
      if (!(await this.#isLoaded(name))) await this.#loadMissing(name, signal);
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

  async #loadMissing(name: string, signal: AbortSignal): Promise<void> {
    if (name !== BUILT_IN_PROFILE) {
      throw new BerthError('precondition', `AppArmor profile ${name} of runtime.apparmor_profile is not loaded`);
    }
    await this.#loads.join(name, signal, async () => {
      // Another caller may have been faster.
      if (!(await this.#isLoaded(name))) await this.#load(new AbortController().signal);
    });
  }

  async #load(signal: AbortSignal): Promise<void> {
    const text = builtInProfile();
    try {
      const path = findProgram('apparmor_parser', `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`);
      const args = ['--replace', '--skip-cache'];
      await this.#deps.processes.runOk({ path, args, stdin: text, timeoutMs: LOAD_TIMEOUT_MS }, signal);
    } catch (err) {
      throw because('precondition', `AppArmor profile ${BUILT_IN_PROFILE} cannot be loaded`, err);
    }
    await writeFile(this.#deps.noteFile, hash('sha256', text)).catch((err: unknown) => {
      // It is loaded; without the note it is once more at the next start.
      this.#deps.log.warn({ err: describe(err) }, 'it is not noted which AppArmor profile was loaded');
    });
  }

  #isOwnText(): boolean {
    try {
      return readFileSync(this.#deps.noteFile, 'utf8') === hash('sha256', builtInProfile());
    } catch {
      return false;
    }
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
