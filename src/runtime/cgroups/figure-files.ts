import { join } from 'node:path';

import { readHugepageSizes } from '../hugepage-sizes.ts';
import type { KernelFile, KernelFiles } from '../kernel-files.ts';
import type { CgroupFigures, FigurePlace } from './cgroup-figures.ts';
import { type CgroupTree, foldersBelow, readText } from './cgroup-tree.ts';
import { FiguresV1 } from './figures-v1.ts';
import { FiguresV2 } from './figures-v2.ts';
import { cgroupFile, type Hierarchy } from './hierarchies.ts';

/** Finds the files of cgroups' figures on this host, whichever cgroup version it has. */
export class FigureFiles {
  readonly #tree: CgroupTree;
  readonly #files: KernelFiles;
  readonly #pageSizes: readonly string[];

  constructor(tree: CgroupTree, files: KernelFiles, pageSizes: readonly string[] = readHugepageSizes()) {
    this.#tree = tree;
    this.#files = files;
    this.#pageSizes = pageSizes;
  }

  /** The figures of the cgroup at a path. Nothing is opened yet. */
  of(path: string): CgroupFigures {
    const place = new CgroupPlace(path, this.#tree, this.#files, this.#pageSizes);
    return this.#tree.mode === 'v2' ? new FiguresV2(place) : new FiguresV1(place);
  }
}

class CgroupPlace implements FigurePlace {
  readonly pageSizes: readonly string[];
  readonly #path: string;
  readonly #tree: CgroupTree;
  readonly #files: KernelFiles;
  readonly #open = new Map<string, KernelFile | undefined>();

  constructor(path: string, tree: CgroupTree, files: KernelFiles, pageSizes: readonly string[]) {
    this.#path = path;
    this.#tree = tree;
    this.#files = files;
    this.pageSizes = pageSizes;
  }

  read(controller: string, file: string): string | undefined {
    return this.#read(file, () => this.#tree.withController(controller));
  }

  // Runtimes put containers into the cgroup2 mount of a hybrid host too, and PSI is only there.
  readUnified(file: string): string | undefined {
    return this.#read(`v2 ${file}`, () => this.#tree.hierarchies.find(({ version }) => version === 2), file);
  }

  // Processes are in the same cgroup of every hierarchy, so one tells. Its file is opened each time: cgroup v1 tells one
  // that stays open what it told it a second ago.
  pids(): number[] {
    const hierarchy = this.#tree.withController('pids') ?? this.#tree.populated[0];
    if (!hierarchy) return [];
    const folders = foldersBelow(cgroupFile(hierarchy, this.#path));
    return folders.flatMap((folder) => parsePids(readText(join(folder, 'cgroup.procs'))));
  }

  close(): void {
    for (const file of this.#open.values()) file?.close();
    this.#open.clear();
  }

  #read(key: string, find: () => Hierarchy | undefined, file = key): string | undefined {
    if (!this.#open.has(key)) {
      const hierarchy = find();
      this.#open.set(key, hierarchy && this.#files.file(cgroupFile(hierarchy, this.#path, file)));
    }
    return this.#open.get(key)?.read();
  }
}

// 0 stands for a process outside this PID namespace.
function parsePids(text: string | undefined): number[] {
  return (text ?? '').split('\n').flatMap((line) => (line === '' || line === '0' ? [] : Number(line)));
}
