import { BerthError } from '../base/errors.ts';

/** A configuration that cannot be used, with all that is wrong with it. */
export class ConfigError extends BerthError {
  override readonly name = 'ConfigError';
  /** Each names file, line and key, or the flag. */
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super('invalid', problems.join('; '));
    this.problems = problems;
  }
}

/** Gathers mistakes, so that an operator sees all of them at once. */
export class ConfigProblems {
  readonly #problems: string[] = [];
  readonly #keys = new Set<string>();
  #isComplete = true;

  /** Notes a mistake of a key, and where it stands. */
  add(at: string, key: string, problem: string): void {
    this.#problems.push(`${at}: ${key}: ${problem}`);
    this.#keys.add(key);
  }

  /** Notes a mistake of a flag that stands for a key. */
  addFlag(flag: string, key: string, problem: string): void {
    this.#problems.push(`${flag}: ${problem}`);
    this.#keys.add(key);
  }

  /** Notes that a whole file cannot be read: what it says is not known. */
  addFile(at: string, problem: string): void {
    this.#problems.push(`${at}: ${problem}`);
    this.#isComplete = false;
  }

  /** False when a file could not be read: then nothing follows from what is missing. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Whether a key's own value is wrong already: then nothing follows from it. */
  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /** Throws a ConfigError when there is any. */
  throwIfAny(): void {
    if (this.#problems.length > 0) throw new ConfigError(this.#problems);
  }
}
