import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { arch, release } from 'node:os';
import { isAbsolute } from 'node:path';

import { BerthError, invalid } from '../base/errors.ts';
import { isErrno } from '../sys/errno.ts';
import { kernelTakesX32 } from '../sys/x32.ts';
import type { SecurityProfile } from './container-spec.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import { defaultSeccomp } from './seccomp-default.ts';
import {
  compileSeccompProfile,
  parseSeccompProfile,
  type SeccompProfile,
  type SeccompTarget,
} from './seccomp-profile.ts';

const FIELD = 'config.linux.security_context.seccomp.localhost_ref';
/** Docker's own profile has 13 KB. */
const FILE_LIMIT_BYTES = 1 << 20;
const CACHE_LIMIT = 64;

interface ReadProfile {
  /** Tells whether the file is still the one that was read. */
  readonly version: string;
  readonly profile: SeccompProfile;
}

/** Seccomp filters for containers. Profiles are read and compiled once for each set of capabilities. */
export class SeccompProfiles {
  readonly #defaultFile: string;
  readonly #architecture = arch();
  readonly #kernel = release();
  readonly #takesX32 = kernelTakesX32();
  readonly #files = new Map<string, ReadProfile>();
  readonly #compiled = new Map<string, OciSeccomp>();

  /** `defaultFile` replaces the built-in RuntimeDefault; '' keeps it. */
  constructor(defaultFile = '') {
    this.#defaultFile = defaultFile;
  }

  /**
   * The filter for a container with this bounding set (`CAP_...`); undefined for unconfined and for no profile, which
   * the CRI takes for unconfined. Throws `invalid` that names field and file for a profile that cannot be used.
   */
  resolve(profile: SecurityProfile | undefined, capabilities: readonly string[]): OciSeccomp | undefined {
    if (!profile || profile.type === 'unconfined') return undefined;
    const target = { capabilities, architecture: this.#architecture, kernel: this.#kernel };
    if (profile.type === 'localhost') return this.#fromFile(FIELD, profile.reference, target);
    if (this.#defaultFile !== '') return this.#fromFile('runtime.seccomp_profile', this.#defaultFile, target);
    return this.#remember('', target, () =>
      defaultSeccomp(capabilities, this.#architecture, { takesX32: this.#takesX32 }),
    );
  }

  #fromFile(field: string, path: string, target: SeccompTarget): OciSeccomp {
    if (!isAbsolute(path) || path.includes('\0'))
      throw invalid(field, `${JSON.stringify(path)} is not an absolute path`);
    const { profile, version } = this.#read(field, path);
    return this.#remember(`${path} ${version}`, target, () => compileSeccompProfile(profile, target));
  }

  #read(field: string, path: string): ReadProfile {
    try {
      const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      try {
        return this.#readOpened(fd, path);
      } finally {
        closeSync(fd);
      }
    } catch (err) {
      throw unusable(field, path, err);
    }
  }

  #readOpened(fd: number, path: string): ReadProfile {
    const facts = fstatSync(fd, { bigint: true });
    if (!facts.isFile()) throw new BerthError('invalid', 'it is not a file');
    if (facts.size > FILE_LIMIT_BYTES) throw new BerthError('invalid', `it has more than ${FILE_LIMIT_BYTES} bytes`);
    const version = `${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs}`;
    const known = this.#files.get(path);
    if (known?.version === version) return known;
    const read = { version, profile: parseSeccompProfile(readFileSync(fd, 'utf8')) };
    makeRoom(this.#files);
    this.#files.set(path, read);
    return read;
  }

  #remember(source: string, { capabilities }: SeccompTarget, compile: () => OciSeccomp): OciSeccomp {
    const key = `${source}\0${capabilities.toSorted().join()}`;
    const known = this.#compiled.get(key);
    if (known) return known;
    makeRoom(this.#compiled);
    const compiled = compile();
    this.#compiled.set(key, compiled);
    return compiled;
  }
}

/** Drops the oldest entry of a full cache. */
function makeRoom(cache: Map<string, unknown>): void {
  const [oldest] = cache.keys();
  if (cache.size >= CACHE_LIMIT && oldest !== undefined) cache.delete(oldest);
}

function unusable(field: string, path: string, cause: unknown): BerthError {
  const reason = isErrno(cause, 'ENOENT', 'ENOTDIR') ? 'there is no such file' : messageOf(cause);
  return invalid(field, `profile ${path} cannot be used: ${reason}`);
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
