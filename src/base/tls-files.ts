import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { SecureContextOptions } from 'node:tls';

import { describe, wrap } from './errors.ts';
import type { Logger } from './log.ts';

/** The table of the configuration that names the files; errors and log lines say which. */
export type TlsOwner = 'stream' | 'metrics';

/** Where certificate, key and, if clients must show one, the CA of clients are. */
export interface TlsPaths {
  readonly cert: string;
  readonly key: string;
  /** Empty: clients need no certificate. */
  readonly clientCa: string;
}

/**
 * The certificate of one server. Whoever rotates it need not tell us: files are looked at before each use, which costs
 * three stat() and needs no watch.
 */
export class TlsFiles {
  readonly #owner: TlsOwner;
  readonly #paths: TlsPaths;
  readonly #log: Logger;
  #version = '';
  #refused = '';
  #endsAt: Date | undefined;

  constructor(owner: TlsOwner, paths: TlsPaths, log: Logger) {
    this.#owner = owner;
    this.#paths = paths;
    this.#log = log;
  }

  get hasClientCa(): boolean {
    return this.#paths.clientCa !== '';
  }

  /** When the certificate in use ends; undefined before the first is. */
  get endsAt(): Date | undefined {
    return this.#endsAt;
  }

  /** What is in the files now. Throws when one cannot be read. */
  async read(): Promise<SecureContextOptions> {
    this.#version = await this.#lookUp();
    const { options, endsAt } = await this.#readAll();
    this.#endsAt = endsAt;
    return options;
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
      const { options, endsAt } = await this.#readAll();
      use(options);
      this.#endsAt = endsAt;
      this.#version = version;
      this.#refused = '';
      this.#log.info({ cert: this.#paths.cert, endsAt }, `${this.#owner} certificate reloaded`);
    } catch (err) {
      const problem = `${version} ${describe(err)}`;
      if (problem === this.#refused) return;
      this.#refused = problem;
      this.#log.warn(
        { cert: this.#paths.cert, err: describe(err) },
        `${this.#owner} certificate not reloaded; the one before stays in use`,
      );
    }
  }

  async #lookUp(): Promise<string> {
    const versions = await Promise.all(
      this.#files().map(async ([name, path]) => {
        try {
          const { ino, size, mtimeNs } = await stat(path, { bigint: true });
          return `${ino}:${size}:${mtimeNs}`;
        } catch (err) {
          throw wrap(`${this.#owner}.${name}: look at ${path}`, err);
        }
      }),
    );
    return versions.join(' ');
  }

  async #readAll(): Promise<{ options: SecureContextOptions; endsAt: Date | undefined }> {
    const contents = await Promise.all(
      this.#files().map(async ([name, path]) => {
        try {
          const content = await readFile(path);
          checkPem(name, content);
          return content;
        } catch (err) {
          throw wrap(`${this.#owner}.${name}: ${path}`, err);
        }
      }),
    );
    const [cert, key, ca] = contents;
    const endsAt = cert && new X509Certificate(cert).validToDate;
    return { options: { cert, key, ...(ca ? { ca } : {}) }, endsAt };
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
