import {
  chmodSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

/** One folder, file or link of a tree, by its path below the tree's top. */
export interface TreeEntry {
  readonly path: string;
  readonly kind: 'folder' | 'file' | 'link';
}

/** A folder that becomes a package. What is written has fixed modes, whatever the umask and the checkout's modes are. */
export class Tree {
  readonly top: string;

  constructor(top: string) {
    this.top = top;
    this.folder('');
  }

  /** Makes a folder and those above it. */
  folder(path: string): void {
    mkdirSync(join(this.top, path), { recursive: true });
  }

  /** Writes a file that all may read, and run when it is a program. */
  file(path: string, content: string | Uint8Array, isProgram = false): void {
    const target = join(this.top, path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, content);
    chmodSync(target, isProgram ? 0o755 : 0o644);
  }

  /** Copies a file. */
  copy(from: string, path: string, isProgram = false): void {
    this.file(path, readFileSync(from), isProgram);
  }

  /** Copies the files of a folder whose paths below it match, with folders below it. */
  copyFolder(from: string, path: string, wanted: RegExp = /^/): void {
    for (const entry of readdirSync(from, { recursive: true, withFileTypes: true })) {
      const name = join(entry.parentPath, entry.name).slice(from.length + 1);
      if (!entry.isFile() || !wanted.test(name)) continue;
      this.copy(join(from, name), join(path, name), (statSync(join(from, name)).mode & 0o100) !== 0);
    }
  }

  link(path: string, target: string): void {
    mkdirSync(dirname(join(this.top, path)), { recursive: true });
    symlinkSync(target, join(this.top, path));
  }

  /** All that is in it, the top left out, in the order of the paths' bytes. */
  entries(): TreeEntry[] {
    const found = readdirSync(this.top, { recursive: true, withFileTypes: true }).map((entry): TreeEntry => {
      const path = join(entry.parentPath, entry.name).slice(this.top.length + 1);
      if (entry.isSymbolicLink()) return { path, kind: 'link' };
      return { path, kind: entry.isDirectory() ? 'folder' : 'file' };
    });
    return found.sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  }

  /** Gives everything one time and one of two modes, so that two builds do not differ in them. */
  settle(epochSeconds: number): void {
    for (const { path, kind } of [...this.entries(), { path: '', kind: 'folder' as const }]) {
      const target = join(this.top, path);
      if (kind !== 'link') chmodSync(target, kind === 'folder' || statSync(target).mode & 0o100 ? 0o755 : 0o644);
      lutimesSync(target, epochSeconds, epochSeconds);
    }
  }

  /** What it takes when it is installed, as Debian counts: files rounded up to KiB, one for all else. */
  sizeKib(): number {
    let kib = 0;
    for (const { path, kind } of this.entries())
      kib += kind === 'file' ? Math.ceil(readFileSync(join(this.top, path)).length / 1024) : 1;
    return kib;
  }
}
