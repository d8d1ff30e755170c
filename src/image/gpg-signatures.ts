import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { BerthError } from '../base/errors.ts';
import type { ProgramRunner } from './credential-helpers.ts';

const TIMEOUT_MS = 20_000;
const OUTPUT_LIMIT_BYTES = 256 * 1024;
/** What is signed is a small JSON document; a message may say with few bytes that it is gigabytes. */
const CONTENT_LIMIT_BYTES = 4 * 1024 * 1024;
/** Of `ulimit -f` in a POSIX shell. */
const BLOCK_BYTES = 512;
/** A shell's exit code for a program that is not there. */
const NO_PROGRAM = 127;
/** Whatever else they say, one of these means that the signature does not count. */
const BAD_STATUS = /^\[GNUPG:\] (?:BADSIG|ERRSIG|EXPSIG|EXPKEYSIG|REVKEYSIG|NODATA|UNEXPECTED|FAILURE|ERROR)\b/m;

/** Verifies OpenPGP signatures with gpgv(1), which trusts the keys that it is given and no others. */
export class GpgSignatures {
  readonly #runner: ProgramRunner;
  readonly #scratch: string;

  /** Keys are put into folders below `scratch` for as long as gpgv runs. */
  constructor(runner: ProgramRunner, scratch: string) {
    this.#runner = runner;
    this.#scratch = scratch;
  }

  /** Removes what a process that was killed has left. */
  async start(): Promise<void> {
    await rm(this.#scratch, { recursive: true, force: true });
  }

  /**
   * What a signed message says, when it has one good signature by one of the keys (armored or binary, several in a file
   * are fine). Throws `permission` when it has not, `precondition` when there is no gpgv or a key is none.
   */
  async verify(message: Uint8Array, keys: readonly Uint8Array[], signal: AbortSignal): Promise<Buffer> {
    const folder = join(this.#scratch, `gpgv-${randomUUID()}`);
    const [keyring, content] = [join(folder, 'keys'), join(folder, 'content')];
    await mkdir(folder, { recursive: true, mode: 0o700 });
    try {
      await writeFile(keyring, Buffer.concat(keys.map(withoutArmor)), { mode: 0o600 });
      const args = ['--homedir', folder, '--keyring', keyring, '--status-fd', '1', '--output', content];
      const result = await this.#runner.run(
        {
          path: '/bin/sh',
          args: ['-c', `ulimit -f ${CONTENT_LIMIT_BYTES / BLOCK_BYTES} && exec gpgv "$@"`, 'gpgv', ...args],
          env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C' },
          stdin: message,
          timeoutMs: TIMEOUT_MS,
          outputLimitBytes: OUTPUT_LIMIT_BYTES,
        },
        signal,
      );
      if (result.exitCode === NO_PROGRAM) {
        throw new BerthError(
          'precondition',
          'signatures cannot be verified without gpgv; on Debian: apt-get install gpgv',
        );
      }
      const status = result.stdout.toString('utf8');
      if (result.exitCode !== 0 || result.truncated || !isOneGoodSignature(status)) throw refusedBy(status);
      // It wrote what it had not verified yet, so nobody looks before this.
      return await readFile(content);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
}

/** A message may carry several texts and signatures, of which one could be good and another be believed. */
function isOneGoodSignature(status: string): boolean {
  const count = (word: string): number => status.match(new RegExp(`^\\[GNUPG:\\] ${word} `, 'gm'))?.length ?? 0;
  const words = ['PLAINTEXT', 'GOODSIG', 'VALIDSIG'];
  return !BAD_STATUS.test(status) && words.every((word) => count(word) === 1);
}

function refusedBy(status: string): BerthError {
  const [, word = '', key = ''] =
    /^\[GNUPG:\] (BADSIG|ERRSIG|EXPSIG|EXPKEYSIG|REVKEYSIG) ([0-9A-F]{1,40})/m.exec(status) ?? [];
  const why: Readonly<Record<string, string>> = {
    BADSIG: 'its content was changed after it was signed',
    ERRSIG: 'the policy does not trust the key',
    EXPSIG: 'it has expired',
    EXPKEYSIG: 'the key has expired',
    REVKEYSIG: 'the key was revoked',
  };
  const by = key === '' ? '' : `by key ${key}: `;
  return new BerthError('permission', `${by}${why[word] ?? 'it is no message with one good signature'}`);
}

/** gpgv reads binary keys only. Armor: RFC 9580, section 6. */
function withoutArmor(key: Uint8Array): Buffer {
  const bytes = Buffer.from(key);
  const text = bytes.toString('latin1');
  if (!text.includes('-----BEGIN PGP PUBLIC KEY BLOCK-----')) return bytes;
  const blocks = text.matchAll(/-----BEGIN PGP PUBLIC KEY BLOCK-----([\s\S]*?)-----END PGP PUBLIC KEY BLOCK-----/g);
  return Buffer.concat(
    [...blocks].map(([, block = '']) => {
      const lines = block.replaceAll('\r', '').split('\n').slice(1);
      const body = lines.slice(lines.findIndex((line) => line.trim() === '') + 1);
      return Buffer.from(body.filter((line) => !line.startsWith('=')).join(''), 'base64');
    }),
  );
}
