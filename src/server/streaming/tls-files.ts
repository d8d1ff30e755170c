import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { SecureContextOptions } from 'node:tls';

import { describe, wrap } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';

/** Where certificate, key and, if clients must show one, the CA of clients are. */
export interface TlsPaths {
  readonly cert: string;
  readonly key: string;
  /** Empty: clients need no certificate. */
  readonly clientCa: string;
}

/**
 * The certificate for streams. Whoever rotates it need not tell us: files are looked at before each URL is given out,
 * which costs three stat() and needs no watch.
 */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #log: Logger;
  #version = '';
  #refused = '';

  constructor(paths: TlsPaths, log: Logger) {
    this.#paths = paths;
    this.#log = log;
  }

  get hasClientCa(): boolean {
    return this.#paths.clientCa !== '';
  }

  /** What is in the files now. Throws when one cannot be read. */
  async read(): Promise<SecureContextOptions> {
    this.#version = await this.#lookUp();
    return await this.#readAll();
  }

  /**
   * Hands new content to `use` when the files have changed since. If they cannot be read or used, as when the
   * certificate is there and its key not yet, what was there before stays in use, and the log says so once.
   */
  async refresh(use: (options: SecureContextOptions) => void): Promise<void> {
    let version = '';
    try {
      version = await this.#lookUp();
      if (version === this.#version) return;
      use(await this.#readAll());
      this.#version = version;
      this.#refused = '';
      this.#log.info({ cert: this.#paths.cert }, 'certificate for streams reloaded');
    } catch (err) {
      const problem = `${version} ${describe(err)}`;
      if (problem === this.#refused) return;
      this.#refused = problem;
      this.#log.warn({ cert: this.#paths.cert, err: describe(err) }, 'certificate for streams not reloaded');
    }
  }

  async #lookUp(): Promise<string> {
    const versions = await Promise.all(
      this.#files().map(async ([name, path]) => {
        try {
          const { ino, size, mtimeNs } = await stat(path, { bigint: true });
          return `${ino}:${size}:${mtimeNs}`;
        } catch (err) {
          throw wrap(`stream.${name}: look at ${path}`, err);
        }
      }),
    );
    return versions.join(' ');
  }

  async #readAll(): Promise<SecureContextOptions> {
    const contents = await Promise.all(
      this.#files().map(async ([name, path]) => {
        try {
          const content = await readFile(path);
          checkPem(name, content);
          return content;
        } catch (err) {
          throw wrap(`stream.${name}: ${path}`, err);
        }
      }),
    );
    const [cert, key, ca] = contents;
    return { cert, key, ...(ca ? { ca } : {}) };
  }

  #files(): (readonly [string, string])[] {
    const { cert, key, clientCa } = this.#paths;
    return [['tls_cert', cert], ['tls_key', key], ...(clientCa === '' ? [] : ([['tls_client_ca', clientCa]] as const))];
  }
}

/** Throws what OpenSSL says of a file that it cannot use: of all files together it does not say which it means. */
function checkPem(name: string, content: Buffer): void {
  if (name === 'tls_key') createPrivateKey(content);
  else new X509Certificate(content);
}
