import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/** Makes a certificate for 127.0.0.1 that signs itself, and its key. */
export function makeCertificate(dir: string, name: string): { cert: string; key: string } {
  const [cert, key] = [join(dir, `${name}.crt`), join(dir, `${name}.key`)];
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1'];
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  execFileSync('openssl', ['req', ...kind, ...subject, '-keyout', key, '-out', cert], {
    stdio: 'ignore',
    timeout: 30_000,
  });
  return { cert, key };
}

/** Whether certificates can be made here. */
export function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore', timeout: 30_000 });
    return true;
  } catch {
    return false;
  }
}

/** An authority that signs certificates, for servers on 127.0.0.1 (or localhost) and for clients. */
export interface TestAuthority {
  /** Its own certificate. */
  readonly cert: string;
  /** Makes `<name>.cert` and `<name>.key` in its folder, signed by it. */
  sign(name: string): { cert: string; key: string };
}

/** Makes an authority in `dir`. */
export function makeAuthority(dir: string, name: string): TestAuthority {
  const authority = makeCertificate(dir, name);
  return {
    cert: authority.cert,
    sign(signed) {
      const [cert, key, request] = ['cert', 'key', 'csr'].map((end) => join(dir, `${signed}.${end}`)) as [
        string,
        string,
        string,
      ];
      const openssl = (...args: string[]): Buffer => execFileSync('openssl', args, { stdio: 'pipe', timeout: 30_000 });
      const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', `/CN=${signed}`];
      openssl('req', ...kind, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', key, '-out', request);
      const signing = ['-CA', authority.cert, '-CAkey', authority.key, '-CAcreateserial', '-days', '2'];
      openssl('x509', '-req', '-in', request, ...signing, '-copy_extensions', 'copyall', '-out', cert);
      return { cert, key };
    },
  };
}
