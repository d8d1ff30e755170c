import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Where the plugins' programs are. What was found is remembered until reset(): an ADD looks for no file. */
export class PluginBinaries {
  #binDirs: readonly string[];
  readonly #found = new Map<string, string>();

  constructor(binDirs: readonly string[]) {
    this.#binDirs = binDirs;
  }

  /** The folders, in their order. */
  get binDirs(): readonly string[] {
    return this.#binDirs;
  }

  /** The path of a plugin's program in the first folder that has it, without asking the disk. */
  known(type: string): string | undefined {
    return this.#found.get(type);
  }

  /** The path of a plugin's program in the first folder that has it. `type` must be a checked name. */
  async find(type: string): Promise<string | undefined> {
    const known = this.#found.get(type);
    if (known !== undefined) return known;
    for (const binDir of this.#binDirs) {
      const path = join(binDir, type);
      if (!(await isProgram(path))) continue;
      this.#found.set(type, path);
      return path;
    }
    return undefined;
  }

  /** Looks in other folders from now on. */
  follow(binDirs: readonly string[]): void {
    this.#binDirs = binDirs;
    this.reset();
  }

  /** Forgets what was found: the folders have changed. */
  reset(): void {
    this.#found.clear();
  }
}

async function isProgram(path: string): Promise<boolean> {
  try {
    if (!(await stat(path)).isFile()) return false;
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
