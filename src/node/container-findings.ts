import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';

import { describe, wrap } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { Config } from '../config/load-config.ts';
import { resolveCapabilities } from '../runtime/capabilities.ts';
import { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { SeccompProfiles } from '../runtime/seccomp.ts';
import type { Finding } from './finding.ts';

/** What the configuration gives to every container, or to every stream, and what none of them could use. */
export function containerFindings({ runtime, stream, sources }: Config): Finding[] {
  const remedy = `correct it in ${configFile(sources)}, then: systemctl restart berthd`;
  const attempt = (consequence: string, look: () => unknown): Finding[] => attempted(consequence, remedy, look);
  return [
    ...attempt('no container can be made', () => checkCapabilities(runtime.defaultCapabilities)),
    ...attempt('no container with the profile RuntimeDefault can be made', () => {
      new SeccompProfiles(runtime.seccompProfile).resolve({ type: 'runtimeDefault' }, []);
    }),
    ...attempt('berthd cannot start', () => new DefaultSysctls(runtime.defaultSysctls, silentLogger)),
    ...attempt('berthd cannot start', () => checkCertificate(stream)),
  ];
}

function checkCapabilities(defaults: readonly string[]): void {
  const nothing = { add: [], drop: [], addAmbient: [] };
  resolveCapabilities({ defaults, wanted: nothing, privileged: false, uid: 0, host: new Set() });
}

function checkCertificate({ tlsCert, tlsKey, tlsClientCa }: Config['stream']): void {
  const read = (key: string, path: string): Buffer | undefined => {
    try {
      return path === '' ? undefined : readFileSync(path);
    } catch (err) {
      throw wrap(`stream.${key} ${path}`, err);
    }
  };
  const [cert, key, ca] = [read('tls_cert', tlsCert), read('tls_key', tlsKey), read('tls_client_ca', tlsClientCa)];
  if (!cert) return;
  try {
    createSecureContext({ cert, ...(key && { key }), ...(ca && { ca }) });
  } catch (err) {
    throw wrap(`stream.tls_cert ${tlsCert} with stream.tls_key ${tlsKey}`, err);
  }
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
