/**
 * Certificates for registries as nodes have them: folders named after `host[:port]` with `*.crt` (authorities) and pairs
 * of `*.cert` and `*.key` (what we show), as containers-certs.d(5) and Docker describe, and the files that a hosts.toml
 * names. They are read at each pull, so that a renewed certificate counts at once.
 */

import { createHash, X509Certificate } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { BerthError, because } from '../base/errors.ts';
import { isMissing } from './last-good.ts';

/** Files in PEM. A pair may name the same file twice. */
export interface TlsFiles {
  readonly authorities: readonly string[];
  readonly clients: readonly { readonly cert: string; readonly key: string }[];
}

/** What a connection to one registry needs beside the machine's own authorities. */
export interface TlsMaterial {
  /** Authorities in PEM that hold beside the machine's own. */
  readonly authorities: readonly string[];
  /** What we show a server that asks who we are. */
  readonly clients: readonly { readonly cert: string; readonly key: string }[];
  /** Tells materials apart; holds no secret. */
  readonly id: string;
  /** For messages. */
  readonly files: TlsFiles;
}

/**
 * The files in the first of `<dir>/<host>` that is there; undefined when none is. Throws `precondition` for a
 * certificate without its key, or a key without its certificate.
 */
export async function findCertificates(dirs: readonly string[], host: string): Promise<TlsFiles | undefined> {
  for (const dir of dirs) {
    const found = await certificatesIn(join(dir, host));
    if (found) return found;
  }
  return undefined;
}

/** The same for one folder. */
export async function certificatesIn(folder: string): Promise<TlsFiles | undefined> {
  let names: string[];
  try {
    names = (await readdir(folder)).sort();
  } catch (err) {
    if (isMissing(err)) return undefined;
    throw because('precondition', `certificates in ${folder} cannot be listed`, err);
  }
  const have = new Set(names);
  const needs = (name: string, other: string): string => {
    if (have.has(other)) return join(folder, name);
    throw new BerthError('precondition', `${join(folder, name)} is of no use without ${other} beside it`);
  };
  for (const name of names.filter((name) => name.endsWith('.key'))) needs(name, name.replace(/key$/, 'cert'));
  return {
    authorities: names.filter((name) => name.endsWith('.crt')).map((name) => join(folder, name)),
    clients: names
      .filter((name) => name.endsWith('.cert'))
      .map((name) => {
        const key = name.replace(/cert$/, 'key');
        return { cert: needs(name, key), key: join(folder, key) };
      }),
  };
}

/** Reads the files. Throws `precondition` naming one that cannot be read; undefined when there is nothing in them. */
export async function loadTlsMaterial(files: TlsFiles): Promise<TlsMaterial | undefined> {
  if (files.authorities.length === 0 && files.clients.length === 0) return undefined;
  const authorities = await Promise.all(files.authorities.map(readCertificate));
  const clients = await Promise.all(
    files.clients.map(async ({ cert, key }) => ({ cert: await readPem(cert), key: await readPem(key) })),
  );
  const id = createHash('sha256')
    .update(JSON.stringify([authorities, clients]))
    .digest('hex');
  return { authorities, clients, id, files };
}

/** OpenSSL passes over an authority that it does not understand. */
async function readCertificate(path: string): Promise<string> {
  const text = await readPem(path);
  try {
    return new X509Certificate(text) && text;
  } catch (err) {
    throw because('precondition', `${path} is no certificate`, err);
  }
}

async function readPem(path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (err) {
    throw because('precondition', `certificate file ${path} cannot be read`, err);
  }
  if (text.includes('-----BEGIN ')) return text;
  throw new BerthError('precondition', `${path} is no certificate or key in PEM`);
}
