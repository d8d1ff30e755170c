import { parse, TomlError } from 'smol-toml';

import { BerthError, wrap } from '../base/errors.ts';

/** A text that is not TOML. */
export class NotTomlError extends BerthError {
  override readonly name = 'NotTomlError';
  /** Counted from 1. */
  readonly line: number;
  /** Without the file and the line. */
  readonly problem: string;

  constructor(file: string, line: number, problem: string) {
    super('invalid', `${file}:${line}: ${problem}`);
    this.line = line;
    this.problem = problem;
  }
}

/** Parses a TOML file. Throws NotTomlError, whose message names file and line. */
export function parseToml(file: string, text: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (err) {
    if (!(err instanceof TomlError)) throw wrap(`parse ${file}`, err);
    throw notToml(file, err);
  }
}

// Without the cause: it says the same again, with a picture over several lines.
function notToml(file: string, { message, line }: TomlError): NotTomlError {
  const reason = message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '') ?? '';
  return new NotTomlError(file, line, `not TOML: ${reason}`);
}
