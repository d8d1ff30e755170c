import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';

import { describe, wrap } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { Config } from '../config/load-config.ts';
import { resolveCapabilities } from '../runtime/capabilities.ts';
import { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { SeccompProfiles } from '../runtime/seccomp.ts';
import type { Finding } from './finding.ts';

/** What the configuration gives to every container, and its certificates: what none of them could use. */
export function containerFindings({ runtime, stream, metrics, tracing, sources }: Config): Finding[] {
  const remedy = `correct it in ${configFile(sources)}, then: systemctl restart berthd`;
  const attempt = (consequence: string, look: () => unknown): Finding[] => attempted(consequence, remedy, look);
  return [
    ...attempt('no container can be made', () => checkCapabilities(runtime.defaultCapabilities)),
    ...attempt('no container with the profile RuntimeDefault can be made', () => {
      new SeccompProfiles(runtime.seccompProfile).resolve({ type: 'runtimeDefault' }, []);
    }),
    ...attempt('berthd cannot start', () => new DefaultSysctls(runtime.defaultSysctls, silentLogger)),
    ...attempt('berthd cannot start', () => checkServerCertificate('stream', stream)),
    ...attempt('berthd cannot start', () => checkServerCertificate('metrics', metrics)),
    ...attempt('berthd cannot start', () => checkTracing(tracing)),
  ];
}

function checkCapabilities(defaults: readonly string[]): void {
  const nothing = { add: [], drop: [], addAmbient: [] };
  resolveCapabilities({ defaults, wanted: nothing, privileged: false, uid: 0, host: new Set() });
}

/** Certificate, key and authority of one table, as its keys name them. Throws for the first that cannot be used. */
function checkCertificate(table: string, cert: TlsFile, key: TlsFile, authority: TlsFile): void {
  const read = ([name, path]: TlsFile): Buffer | undefined => {
    try {
      return path === '' ? undefined : readFileSync(path);
    } catch (err) {
      throw wrap(`${table}.${name} ${path}`, err);
    }
  };
  const [certBytes, keyBytes, ca] = [read(cert), read(key), read(authority)];
  const named = [cert, key, authority].filter(([, path]) => path !== '');
  if (named.length === 0) return;
  try {
    createSecureContext({
      ...(certBytes && { cert: certBytes }),
      ...(keyBytes && { key: keyBytes }),
      ...(ca && { ca }),
    });
  } catch (err) {
    throw wrap(named.map(([name, path]) => `${table}.${name} ${path}`).join(' with '), err);
  }
}

/** A key of the configuration and the file that it names; '' is none. */
type TlsFile = readonly [key: string, path: string];

/** Only of what is used: certificates of an endpoint that is off do no harm. */
function checkServerCertificate(
  table: 'stream' | 'metrics',
  { listen, tlsCert, tlsKey, tlsClientCa }: ServerTls,
): void {
  if (listen === '' || tlsCert === '') return;
  checkCertificate(table, ['tls_cert', tlsCert], ['tls_key', tlsKey], ['tls_client_ca', tlsClientCa]);
}

type ServerTls = Config['stream' | 'metrics'];

function checkTracing({ endpoint, tls, tlsCa, tlsCert, tlsKey }: Config['tracing']): void {
  if (endpoint === '' || !tls) return;
  checkCertificate('tracing', ['tls_cert', tlsCert], ['tls_key', tlsKey], ['tls_ca', tlsCa]);
}

/** Where keys are set: the files that were read, or the one that could be. */
export function configFile(sources: readonly string[]): string {
  return sources.join(' or ') || '/etc/berth/berth.toml';
}

function attempted(consequence: string, remedy: string, look: () => unknown): Finding[] {
  try {
    look();
    return [];
  } catch (err) {
    const [subject = '', ...rest] = describe(err).split(': ');
    return [{ severity: 'error', subject, message: `${consequence}: ${rest.join(': ')}`, remedy }];
  }
}
