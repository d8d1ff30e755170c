import * as v from 'valibot';

import { BerthError, because } from '../base/errors.ts';
import type { Command, CommandResult } from '../proc/command.ts';
import type { Credential } from './auth.ts';

/** What runs a program to its end: Processes of src/proc. */
export interface ProgramRunner {
  run(command: Command, signal: AbortSignal): Promise<CommandResult>;
}

// A cloud's answer may need a token of its own first; a person who is asked for a password is not there.
const TIMEOUT_MS = 20_000;
const OUTPUT_LIMIT_BYTES = 64 * 1024;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const answerSchema = v.object({ Username: v.string(), Secret: v.string() });

/**
 * Programs that keep credentials: `docker-credential-NAME get`, with the registry on standard input, as the
 * docker-credential-helpers project describes. What they print is a secret, also when they fail.
 */
export class CredentialHelpers {
  readonly #runner: ProgramRunner;

  constructor(runner: ProgramRunner) {
    this.#runner = runner;
  }

  /**
   * The credential that a helper has for a registry; undefined when it has none. `file` is what names the helper, for
   * messages. Throws `precondition` when it is not there, fails, or says what nobody understands.
   */
  async get(name: string, registry: string, file: string, signal: AbortSignal): Promise<Credential | undefined> {
    if (!NAME.test(name)) throw new BerthError('precondition', `${file} names a credential helper that is no name`);
    const program = `docker-credential-${name}`;
    // Docker keeps its own registry under the address that it had first.
    const servers = registry === 'docker.io' ? ['https://index.docker.io/v1/', registry] : [registry];
    for (const server of servers) {
      const result = await this.#run(program, server, file, signal);
      if (result.exitCode === 0) return parseAnswer(result, `${program} (${file})`);
      if (!/credentials not found/i.test(result.stdout.toString('utf8'))) {
        const how = result.signal ? `was ended by ${result.signal}` : `failed with exit code ${result.exitCode}`;
        throw new BerthError('precondition', `${program}, which ${file} names for ${registry}, ${how}`);
      }
    }
    return undefined;
  }

  async #run(program: string, server: string, file: string, signal: AbortSignal): Promise<CommandResult> {
    try {
      return await this.#runner.run(
        {
          path: program,
          args: ['get'],
          // Where it finds its own configuration is the operator's to say.
          env: Object.fromEntries(Object.entries(process.env).map(([name, value]) => [name, value ?? ''])),
          stdin: `${server}\n`,
          timeoutMs: TIMEOUT_MS,
          outputLimitBytes: OUTPUT_LIMIT_BYTES,
          newSession: true,
        },
        signal,
      );
    } catch (err) {
      signal.throwIfAborted();
      throw because('precondition', `${program}, which ${file} names, could not be run`, err);
    }
  }
}

function parseAnswer({ stdout }: CommandResult, source: string): Credential | undefined {
  let json: unknown;
  try {
    json = JSON.parse(stdout.toString('utf8'));
  } catch {
    // Without the parser's message, which would quote the secret.
    throw new BerthError('precondition', `${source} did not answer with JSON`);
  }
  const result = v.safeParse(answerSchema, json);
  if (!result.success) throw new BerthError('precondition', `${source} did not answer with a user and a secret`);
  const { Username: username, Secret: secret } = result.output;
  if (username === '' && secret === '') return undefined;
  // This name says that the secret is a refresh token.
  return username === '<token>'
    ? { kind: 'identity', token: secret, source }
    : { kind: 'basic', username, password: secret, source };
}
