import { readFile } from 'node:fs/promises';
import { BlockList, isIP } from 'node:net';
import { createSecureContext, rootCertificates, type SecureContext, type SecureContextOptions } from 'node:tls';

import type { Agent, Dispatcher } from 'undici';

import { because } from '../base/errors.ts';
import { loadUndici, type Undici } from './load-undici.ts';
import { bareHost } from './local-hosts.ts';
import type { TlsMaterial } from './tls-material.ts';

/**
 * Who may sign a server's certificate. `quick`: those named for the registry, or else those built into Node, which cost
 * nothing. `machine`: those named, and the machine's own.
 */
export type Authorities = 'quick' | 'machine';

/** How long a silent peer is waited for. */
export interface HttpTimeouts {
  readonly connectMs: number;
  readonly headersMs: number;
  /** Longest silence within a body. */
  readonly progressMs: number;
}

/** What tells connections apart. */
export interface AgentChoice {
  readonly authorities: Authorities;
  readonly insecure: boolean;
  readonly tls: TlsMaterial | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

// Renewed certificates make new agents; the old ones end with their last request.
const MAX_AGENTS = 32;

/** Where distributions keep the authorities that an administrator trusts; the first one there is used. */
const MACHINE_AUTHORITIES: readonly string[] = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/tls/cacert.pem',
  '/etc/ssl/cert.pem',
];

/** A proxy may reach other machines in our place, but never this one. */
const NEVER_PROXIED: readonly string[] = ['localhost', '127.0.0.1', '::1'];

/**
 * The connections to registries: one pool for each way to do TLS. The one place where TLS options are made. Registries
 * are reached through the proxy that HTTPS_PROXY, or HTTP_PROXY, names in `env`, but for the hosts in NO_PROXY.
 */
export class HttpAgents {
  #undici: Promise<Undici> | undefined;
  readonly #timeouts: HttpTimeouts;
  readonly #env: Environment;
  readonly #direct: BlockList;
  readonly #agents = new Map<string, Promise<Dispatcher>>();

  constructor(timeouts: HttpTimeouts, env: Environment = process.env) {
    this.#timeouts = timeouts;
    this.#env = env;
    this.#direct = rangesOf(env['no_proxy'] || env['NO_PROXY'] || '');
  }

  /** True when the host of a URL is reached without a proxy. */
  goesDirect(hostname: string): boolean {
    const proxies = proxiesOf(this.#env);
    if (!proxies || this.#isDirect(hostname)) return true;
    const host = bareHost(hostname).toLowerCase();
    // As undici reads them: a name stands for its subdomains too. A port is left out: to look up too much is harmless.
    return proxies.noProxy.split(/[\s,]+/).some((entry) => {
      const name = entry
        .toLowerCase()
        .replace(/^\*?\.?/, '')
        .replace(/^([^:]+):\d+$/, '$1');
      return entry === '*' || (name !== '' && (host === name || host.endsWith(`.${name}`)));
    });
  }

  /**
   * The pool for a choice and the host of a URL. Throws `precondition` naming the files when one is no certificate, or
   * the proxy is none.
   */
  async get(choice: AgentChoice, hostname = ''): Promise<Dispatcher> {
    const isDirect = this.#isDirect(hostname);
    const key = `${choice.authorities} ${choice.insecure} ${isDirect} ${choice.tls?.id ?? ''}`;
    const existing = this.#agents.get(key);
    if (existing) return await existing;
    const made = this.#make(choice, isDirect);
    this.#agents.set(key, made);
    made.catch(() => this.#agents.delete(key));
    const oldest = this.#agents.entries().next();
    if (this.#agents.size > MAX_AGENTS && !oldest.done) {
      this.#agents.delete(oldest.value[0]);
      void oldest.value[1].then((agent) => agent.close()).catch(() => {});
    }
    return await made;
  }

  /** Makes a new pool next time: one of this has a dead connection. What it does is done to its end. */
  async forget(agent: Dispatcher): Promise<void> {
    for (const [key, made] of [...this.#agents]) {
      if ((await made.catch(() => undefined)) !== agent || this.#agents.get(key) !== made) continue;
      this.#agents.delete(key);
      void agent.close().catch(() => {});
    }
  }

  /** The library, loaded at the first request: a node that pulls nothing does not pay for it. */
  undici(): Promise<Undici> {
    this.#undici ??= loadUndici();
    return this.#undici;
  }

  /** Ends all connections. */
  async close(): Promise<void> {
    const agents = [...this.#agents.values()];
    this.#agents.clear();
    await Promise.all(agents.map(async (agent) => await (await agent).destroy()));
  }

  #isDirect(hostname: string): boolean {
    const host = bareHost(hostname);
    const family = isIP(host);
    return family !== 0 && this.#direct.check(host, family === 6 ? 'ipv6' : 'ipv4');
  }

  async #make({ authorities, insecure, tls }: AgentChoice, isDirect: boolean): Promise<Dispatcher> {
    const { Agent: AgentClass } = await this.undici();
    const secureContext = await contextOf(authorities, tls);
    const connect = {
      timeout: this.#timeouts.connectMs,
      rejectUnauthorized: !insecure,
      ...(secureContext ? { secureContext } : {}),
    };
    const options: Agent.Options = {
      headersTimeout: this.#timeouts.headersMs,
      bodyTimeout: this.#timeouts.progressMs,
      keepAliveTimeout: 10_000,
      connect,
    };
    const proxies = proxiesOf(this.#env);
    if (!proxies || isDirect) return new AgentClass(options);
    const { EnvHttpProxyAgent } = await import('undici');
    try {
      return new EnvHttpProxyAgent({ ...options, ...proxies, connectTimeout: connect.timeout, requestTls: connect });
    } catch (err) {
      throw because('precondition', 'the proxy that HTTPS_PROXY or HTTP_PROXY names cannot be used', err);
    }
  }
}

/**
 * The ranges of addresses (CIDR) in NO_PROXY, which undici does not know: as Go has it, they are for hosts that are
 * given as addresses.
 */
function rangesOf(noProxy: string): BlockList {
  const ranges = new BlockList();
  for (const entry of noProxy.split(/[\s,]+/)) {
    const [, address = '', bits = ''] = /^([^/]+)\/(\d{1,3})$/.exec(entry) ?? [];
    const family = isIP(address);
    if (family === 0 || Number(bits) > (family === 6 ? 128 : 32)) continue;
    ranges.addSubnet(address, Number(bits), family === 6 ? 'ipv6' : 'ipv4');
  }
  return ranges;
}

/** The proxies in force, as EnvHttpProxyAgent takes them; undefined when there is none. Both spellings are in use. */
function proxiesOf(env: Environment): { httpProxy: string; httpsProxy: string; noProxy: string } | undefined {
  const either = (name: string): string => env[name.toLowerCase()] || env[name] || '';
  const [httpProxy, httpsProxy] = [either('HTTP_PROXY'), either('HTTPS_PROXY')];
  if (httpProxy === '' && httpsProxy === '') return undefined;
  return { httpProxy, httpsProxy, noProxy: [either('NO_PROXY'), ...NEVER_PROXIED].join(',') };
}

/** Made once for all connections of a pool, because it takes some milliseconds. */
async function contextOf(authorities: Authorities, tls: TlsMaterial | undefined): Promise<SecureContext | undefined> {
  const options: SecureContextOptions = {};
  const named = tls?.authorities ?? [];
  if (authorities === 'machine') options.ca = [...named, await machineAuthorities()];
  else if (named.length > 0) options.ca = [...named];
  if (tls && tls.clients.length > 0) {
    options.cert = tls.clients.map(({ cert }) => cert);
    options.key = tls.clients.map(({ key }) => key);
  }
  if (Object.keys(options).length === 0) return undefined;
  try {
    return createSecureContext(options);
  } catch (err) {
    const files = [...(tls?.files.authorities ?? []), ...(tls?.files.clients.map(({ cert }) => cert) ?? [])];
    throw because('precondition', `certificates cannot be used: ${files.join(', ') || "the machine's own"}`, err);
  }
}

async function machineAuthorities(): Promise<string> {
  const own = process.env['SSL_CERT_FILE'] ?? '';
  for (const path of [...(own === '' ? [] : [own]), ...MACHINE_AUTHORITIES]) {
    const text = await readFile(path, 'utf8').catch(() => '');
    if (text !== '') return text;
  }
  return rootCertificates.join('\n');
}
