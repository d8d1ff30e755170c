import { invalid } from '../../base/errors.ts';
import { requireLength } from './paths.ts';

/** execve(2): MAX_ARG_STRLEN, 32 pages with the NUL at the end; for variables too. */
const MAX_ARGUMENT_BYTES = 131_071;

/** Takes a program's name and arguments. Throws `invalid` for those that no program can be given. */
export function requireArguments(words: readonly string[], field: string): void {
  for (const [index, word] of words.entries()) requireArgument(word, `${field}[${index}]`);
}

/** As requireArguments, for the words of a whole command, the first of which is looked up as a file. */
export function requireCommand(words: readonly string[], field: string): void {
  requireArguments(words, field);
  if (words[0] !== undefined) requireLength(words[0], `${field}[0]`);
}

/** Throws `invalid` for one argument, or one `KEY=value`, that is too long. */
export function requireArgument(word: string, field: string): void {
  const bytes = Buffer.byteLength(word);
  if (bytes > MAX_ARGUMENT_BYTES) throw invalid(field, `has ${bytes} bytes; Linux takes ${MAX_ARGUMENT_BYTES}`);
}
