import type { Logger } from '../../base/log.ts';
import { type FileProblem, ParsedFolders } from '../parsed-folders.ts';
import type { StagedHook } from './add-hooks.ts';
import { type HookFile, type HookTarget, isHookFor, parseHookFile } from './hook-file.ts';

/**
 * The hooks that the node's owner and its packages want in containers: the `.json` files of some folders. One of a
 * later folder replaces one of the same name. They are looked at for each container.
 */
export class HookFolders {
  readonly #files: ParsedFolders<HookFile>;
  readonly #log: Logger;
  #told = '';

  constructor(folders: readonly string[], log: Logger) {
    this.#files = new ParsedFolders({ folders, suffixes: ['.json'], parse: parseHookFile });
    this.#log = log;
  }

  /** The hooks for a container, by the names of their files. A file that cannot be used is told to the log, once. */
  async hooksFor(target: HookTarget): Promise<StagedHook[]> {
    const { files, problems } = await this.#files.read();
    this.#tell(problems);
    const byName = new Map(files.map(({ name, value }) => [name, value]));
    return [...byName.entries()]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([, { hook, stages, conditions }]) =>
        isHookFor(conditions, target) ? stages.map((stage) => ({ stage, hook })) : [],
      );
  }

  /** The files that cannot be used now, and why. */
  async problems(): Promise<readonly FileProblem[]> {
    return (await this.#files.read()).problems;
  }

  #tell(problems: readonly FileProblem[]): void {
    const text = problems.map(({ path, problem }) => `${path}: ${problem}`).join('; ');
    if (text !== this.#told && text !== '')
      this.#log.error({ problems: text }, 'hooks that cannot be used are left out');
    this.#told = text;
  }
}
