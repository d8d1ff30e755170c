import type { Logger } from '../base/log.ts';
import { type Endpoint, endpointsFor, hasRule, passedOver } from './endpoints.ts';
import { type CheckedHosts, HostsFolders } from './hosts-folders.ts';
import type { HostsFile } from './hosts-toml.ts';
import type { ImageReference } from './reference.ts';
import { RegistriesConf, type RegistryRules } from './registries-conf.ts';
import { findCertificates, loadTlsMaterial } from './tls-material.ts';

/** Where registries are described. Files and folders may be missing on disk. */
export interface RegistriesPlaces {
  /** registries.conf and the folder of its drop-ins; empty for none. */
  readonly conf: string;
  readonly confDir: string;
  /** Short names that somebody at a terminal has chosen; empty for none. */
  readonly aliases: string;
  /** Folders of containerd's hosts.toml. */
  readonly hostsDirs: readonly string[];
  /** Folders of certificates, one below them for each registry. */
  readonly certsDirs: readonly string[];
}

/** The places that the keys of `[image]` name. */
export function registriesPlaces(settings: {
  readonly registriesConf: string;
  readonly registriesConfDir: string;
  readonly shortNameAliases: string;
  readonly hostsDirs: readonly string[];
  readonly certsDirs: readonly string[];
}): RegistriesPlaces {
  const {
    registriesConf: conf,
    registriesConfDir: confDir,
    shortNameAliases: aliases,
    hostsDirs,
    certsDirs,
  } = settings;
  return { conf, confDir, aliases, hostsDirs, certsDirs };
}

/** All that the files on this node say about registries, followed as they change. */
export class Registries {
  readonly #conf: RegistriesConf;
  readonly #hosts: HostsFolders;
  readonly #certsDirs: readonly string[];

  constructor(places: RegistriesPlaces, log: Logger) {
    this.#conf = new RegistriesConf({ file: places.conf, dir: places.confDir, aliases: places.aliases, log });
    this.#hosts = new HostsFolders(places.hostsDirs, log);
    this.#certsDirs = places.certsDirs;
  }

  /** The rules of registries.conf as they were understood last. */
  get rules(): RegistryRules {
    return this.#conf.current;
  }

  /** The rules as the files have them now. Throws `invalid` when they never could be understood. */
  async loadRules(): Promise<RegistryRules> {
    return await this.#conf.load();
  }

  /** True when registries.conf does not hold as it is now, and what it said before does. */
  async holdsOlderRules(): Promise<boolean> {
    // It fails where there are none at all, which is no answer to this.
    await this.#conf.load().catch(() => undefined);
    return this.#conf.problem !== undefined && this.#conf.isUnderstood;
  }

  /** Why files that speak of a reference do not hold as they are now, where what they said before does. */
  async heldBack(reference: ImageReference): Promise<string[]> {
    const { heldBack } = this.#conf;
    const byHosts = hasRule(reference, this.#conf.current) ? undefined : await this.#hosts.heldBack(reference.registry);
    return [heldBack, byHosts].filter((problem) => problem !== undefined);
  }

  /** As HostsFolders.older(). */
  async olderHosts(): Promise<string[]> {
    return await this.#hosts.older();
  }

  /** As HostsFolders.check(): to be asked of a new object. */
  async checkHosts(): Promise<CheckedHosts> {
    return await this.#hosts.check();
  }

  /** Files that do not hold as they are now, and why. */
  problems(): { readonly file: string; readonly problem: string }[] {
    const { problem } = this.#conf;
    return [...(problem === undefined ? [] : [{ file: 'registries.conf', problem }]), ...this.#hosts.problems()];
  }

  /**
   * The places to ask for a reference, in order, with their certificates. Throws `permission` for a blocked registry,
   * `invalid` or `precondition` for a file that is of no use, naming it.
   */
  async endpoints(reference: ImageReference): Promise<Endpoint[]> {
    const { rules, hosts } = await this.#rulesFor(reference);
    const endpoints = endpointsFor(reference, rules, hosts);
    return await Promise.all(endpoints.map(async (endpoint) => await this.#withTls(endpoint)));
  }

  /** The mirrors that are not asked for a reference, each with why. Throws as `endpoints` does for bad files. */
  async passedOver(reference: ImageReference): Promise<string[]> {
    const { rules, hosts } = await this.#rulesFor(reference);
    return passedOver(reference, rules, hosts);
  }

  async #rulesFor(
    reference: ImageReference,
  ): Promise<{ readonly rules: RegistryRules; readonly hosts: HostsFile | undefined }> {
    const rules = await this.#conf.load();
    return { rules, hosts: hasRule(reference, rules) ? undefined : await this.#hosts.find(reference.registry) };
  }

  async #withTls(endpoint: Endpoint): Promise<Endpoint> {
    const own = endpoint.special && (await loadTlsMaterial(endpoint.special.tls));
    if (own) return { ...endpoint, tls: own };
    const files = await findCertificates(this.#certsDirs, endpoint.registry);
    return files ? { ...endpoint, tls: await loadTlsMaterial(files) } : endpoint;
  }
}
