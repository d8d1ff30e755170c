import { CommanderError } from 'commander';

import { CliError, errorJson, errorText } from './cli-error.ts';
import type { ByteOutput } from './output.ts';
import { buildProgram, type Connect } from './program.ts';
import type { Session } from './session.ts';

/** What the command line is run with; tests hand in their own. */
export interface CliParts {
  readonly output: ByteOutput;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly connect: Connect;
  readonly watchInterrupts: Session['watchInterrupts'];
  readonly checkNode: Session['checkNode'];
  readonly planOnNode: Session['planOnNode'];
  readonly examineNode: Session['examineNode'];
}

/**
 * Runs one command and returns its exit code. Errors go to the error output: as text for a person, and with `--json` as
 * one line of JSON, `{"error": ...}`, whatever the error is. Throws nothing but bugs, and with `--json` not even these.
 */
export async function runCli(args: readonly string[], parts: CliParts): Promise<number> {
  const { output } = parts;
  const end = args.indexOf('--');
  const wantsJson = args.slice(0, end < 0 ? args.length : end).includes('--json');
  let exitCode = 0;
  const program = buildProgram({
    ...parts,
    saysErrors: !wantsJson,
    finish: (code) => {
      exitCode = code;
    },
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (err) {
    if (err instanceof CommanderError) {
      if (wantsJson && err.exitCode !== 0) output.err(errorJson(new CliError(usageProblem(err))));
      return err.exitCode;
    }
    if (err instanceof CliError) {
      output.err(wantsJson ? errorJson(err) : errorText(err));
      return err.exitCode;
    }
    if (!wantsJson) throw err;
    output.err(errorJson(new CliError(err instanceof Error ? (err.stack ?? err.message) : String(err))));
    return 1;
  }
}

function usageProblem({ code, message }: CommanderError): string {
  // What commander throws when it shows the help because a command is missing.
  if (code === 'commander.help') return 'no command is given';
  return message.replace(/^error: /, '');
}
