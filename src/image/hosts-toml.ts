/**
 * containerd's hosts.toml: docs/hosts.md of that project. One folder per registry, `_default` for those that have none.
 * The files are shared with containerd, so keys that Berth does not follow are no error; they are told.
 */

import { isAbsolute, join } from 'node:path';

import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import { parseToml } from '../config/parse-toml.ts';
import { entriesOf, type IgnoredKey, ignoredKeys } from './ignored-keys.ts';
import type { TlsFiles } from './tls-material.ts';

/** One place that a hosts.toml speaks of. */
export interface HostRule {
  /** Undefined for the registry itself, when the file does not say where that is. */
  readonly server:
    | {
        /** Undefined when the file does not say. */
        readonly scheme: 'https:' | 'http:' | undefined;
        /** With its port. */
        readonly host: string;
        /** `/v2`, or what `override_path` puts in its place. */
        readonly basePath: string;
      }
    | undefined;
  /** Whether tags may be looked up there. */
  readonly resolves: boolean;
  /** Whether content may be fetched from there. */
  readonly pulls: boolean;
  readonly skipVerify: boolean;
  readonly tls: TlsFiles;
  readonly headers: Readonly<Record<string, string>>;
}

/** The places in order, the registry itself last. */
export interface HostsFile {
  readonly file: string;
  readonly hosts: readonly HostRule[];
  /** What the file says, and Berth does not do. */
  readonly ignored: readonly IgnoredKey[];
}

const texts = v.union([
  v.pipe(
    v.string(),
    v.transform((text): string[] => [text]),
  ),
  v.array(v.string()),
]);
const client = v.union([
  v.pipe(
    v.string(),
    v.transform((file): [string, string][] => [[file, file]]),
  ),
  v.array(
    v.union([
      v.pipe(
        v.string(),
        v.transform((file): [string, string] => [file, file]),
      ),
      v.tuple([v.string(), v.string()]),
      v.pipe(
        v.tuple([v.string()]),
        v.transform(([file]): [string, string] => [file, file]),
      ),
    ]),
  ),
]);
const headerName = v.pipe(v.string(), v.regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$/, 'is no name of a header'));
const headerValue = v.pipe(v.string(), v.regex(/^[\t\x20-\x7e]*$/, 'is no value of a header'));
const hostEntries = {
  capabilities: v.optional(v.array(v.string())),
  ca: v.optional(texts, []),
  client: v.optional(client, []),
  skip_verify: v.optional(v.boolean(), false),
  header: v.optional(
    v.record(
      headerName,
      v.union([
        headerValue,
        v.pipe(
          v.array(headerValue),
          v.transform((values) => values.join(', ')),
        ),
      ]),
    ),
    {},
  ),
  override_path: v.optional(v.boolean(), false),
};
const hostSchema = v.object(hostEntries);
const fileSchema = v.object({
  ...hostEntries,
  server: v.optional(v.string(), ''),
  host: v.optional(v.record(v.string(), hostSchema), {}),
});

/**
 * Parses a hosts.toml; files that it names are beside it, in `folder`. Throws `invalid` naming `file` and the key (or,
 * for broken TOML, the line). Messages never hold a header's value: that may be a password.
 */
export function parseHostsFile(text: string, file: string, folder: string): HostsFile {
  const toml = parseToml(file, text);
  const result = v.safeParse(fileSchema, toml);
  if (!result.success) {
    const issue = result.issues[0];
    const key = v.getDotPath(issue) ?? 'top level';
    throw new BerthError('invalid', `${file}: ${key}: ${key.includes('header') ? 'is no header' : issue.message}`);
  }
  const { host, server, ...own } = result.output;
  return {
    file,
    hosts: [
      ...Object.entries(host).map(([url, table]) => hostRule(url, table, file, folder)),
      hostRule(server, own, file, folder),
    ],
    ignored: [
      ...ignoredKeys(file, toml, Object.keys(fileSchema.entries)),
      ...entriesOf(toml['host']).flatMap(([url, table]) =>
        ignoredKeys(file, table, Object.keys(hostEntries), `host."${url}"`),
      ),
    ],
  };
}

function hostRule(url: string, table: v.InferOutput<typeof hostSchema>, file: string, folder: string): HostRule {
  const at = (path: string): string => (isAbsolute(path) ? path : join(folder, path));
  const { capabilities = ['pull', 'resolve', 'push'] } = table;
  return {
    server: url === '' ? undefined : parseServer(url, table.override_path, file),
    resolves: capabilities.includes('resolve'),
    pulls: capabilities.includes('pull'),
    skipVerify: table.skip_verify,
    tls: {
      authorities: table.ca.map(at),
      clients: table.client.map(([cert, key]) => ({ cert: at(cert), key: at(key) })),
    },
    headers: table.header,
  };
}

function parseServer(text: string, overridePath: boolean, file: string): NonNullable<HostRule['server']> {
  const hasScheme = /^[a-z]+:\/\//i.test(text);
  const url = URL.parse(hasScheme ? text : `https://${text}`);
  if (!url || !/^https?:$/.test(url.protocol) || url.host === '') {
    throw new BerthError('invalid', `${file}: host "${text}" is no URL of a registry`);
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw new BerthError('invalid', `${file}: host ${url.host}: only scheme, host, port and path belong there`);
  }
  const path = url.pathname.replace(/\/+$/, '');
  return {
    scheme: hasScheme ? (url.protocol as 'https:' | 'http:') : undefined,
    host: url.host,
    basePath: overridePath || path.endsWith('/v2') ? path : `${path}/v2`,
  };
}
