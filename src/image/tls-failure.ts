/** What a failed TLS connection to a registry means, in words that say what to do, from OpenSSL's and Node's codes. */

import type { PlainHttp } from './registry-error.ts';
import type { TlsMaterial } from './tls-material.ts';

const UNKNOWN_AUTHORITY =
  /^(?:UNABLE_TO_GET_ISSUER_CERT(?:_LOCALLY)?|UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT)$/;
const NO_TLS = /wrong version number|packet length too long|unknown protocol|http request/;
const BROKEN = /^(?:ECONNRESET|EPIPE|UND_ERR_SOCKET)$/;

/** RFC 8446, section 6.2; RFC 5246, section 7.2.2. */
const HANDSHAKE_FAILURE = 40;
const BAD_CERTIFICATE = 42;
const UNKNOWN_CA = 48;
const ACCESS_DENIED = 49;
const CERTIFICATE_REQUIRED = 116;

/** True for the code of a certificate whose signer is not known. */
export function isUnknownAuthority(code: string): boolean {
  return UNKNOWN_AUTHORITY.test(code);
}

/** Whether plain HTTP may do, after a failure with this code. */
export function plainHttpAfter(code: string, err: unknown): PlainHttp {
  // Without a port in its name, a registry has another one for each scheme.
  if (code === 'ECONNREFUSED' || (isOfTls(code) && NO_TLS.test(messageOf(err)))) return 'likely';
  return BROKEN.test(code) ? 'possible' : 'no';
}

/** True when what was connected by TLS cannot be used again. */
export function endsSession(code: string, err: unknown): boolean {
  return code === 'ERR_HTTP2_INVALID_SESSION' || (isOfTls(code) && plainHttpAfter(code, err) === 'no');
}

/** A failure of TLS with `host` (with its port); undefined for one of another kind. */
export function explainTls(code: string, err: unknown, host: string, tls: TlsMaterial | undefined): string | undefined {
  const folder = folderFor(host);
  if (isUnknownAuthority(code)) {
    return `its certificate is signed by nobody that this machine knows; put the authority's certificate into ${folder}/ca.crt`;
  }
  if (!isOfTls(code)) return undefined;
  const message = messageOf(err);
  const alert = Number(/SSL alert number (\d{1,3})/.exec(message)?.[1] ?? Number.NaN);
  if (Number.isNaN(alert)) return NO_TLS.test(message) ? 'it does not speak TLS' : 'TLS failed';
  const isAboutOurs = (alert >= BAD_CERTIFICATE && alert <= UNKNOWN_CA) || alert === ACCESS_DENIED;
  const shown = tls?.files.clients.map(({ cert }) => cert) ?? [];
  if (shown.length > 0 && tls && tls.clients.length > 0) {
    if (isAboutOurs || alert === CERTIFICATE_REQUIRED) {
      return `the registry does not accept the client certificate ${shown.join(', ')}`;
    }
  } else if (alert === BAD_CERTIFICATE || alert === CERTIFICATE_REQUIRED) {
    return `the registry wants a client certificate: put *.cert and *.key into ${folder}`;
  } else if (alert === HANDSHAKE_FAILURE) {
    return `the registry refused the TLS handshake; ${ifWantsClient(host)}`;
  }
  return `the registry refused the TLS handshake (alert ${alert})`;
}

/** What to do about a registry that may want to know who we are. */
export function ifWantsClient(host: string): string {
  return `if it wants a client certificate, put *.cert and *.key into ${folderFor(host)}`;
}

function folderFor(host: string): string {
  return `a folder of image.certs_dirs, such as /etc/containers/certs.d/${host}`;
}

function isOfTls(code: string): boolean {
  return code.startsWith('ERR_SSL_') || code === 'EPROTO';
}

function messageOf(err: unknown): string {
  const first: unknown = err instanceof AggregateError ? err.errors[0] : err;
  return first instanceof Error ? first.message : '';
}
