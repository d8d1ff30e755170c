import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** More than the largest statistics file of a machine with hundreds of disks. */
const MAX_BYTES = 256 * 1024;
/** Of the descriptors that this process may have, files take at most one in so many. */
const SHARE_OF_LIMIT = 4;
const MOST_OPEN = 16_384;

/**
 * Small files of the kernel (cgroup file systems) that are read again and again. Reading an open one takes a tenth of
 * the time that opening takes, so they stay open, as far as the process may have descriptors. An open file of a cgroup
 * does not keep that cgroup from being removed.
 */
export class KernelFiles {
  readonly #maxOpen: number;
  /** One for all: reads are synchronous, and their text is taken out at once. */
  readonly #buffer = Buffer.allocUnsafeSlow(16 * 1024);
  #open = 0;

  constructor(options: { readonly maxOpen?: number } = {}) {
    this.#maxOpen = options.maxOpen ?? Math.min(MOST_OPEN, Math.floor(readDescriptorLimit() / SHARE_OF_LIMIT));
  }

  /** How many are open now. */
  get open(): number {
    return this.#open;
  }

  /** A file to be read later; nothing is opened yet. */
  file(path: string): KernelFile {
    return new KernelFile(path, this);
  }

  /** Opens a file for a `KernelFile`, when there is room for one more. Throws as openSync. */
  tryOpen(path: string): number | undefined {
    if (this.#open >= this.#maxOpen) return undefined;
    const fd = openSync(path, 'r');
    this.#open += 1;
    return fd;
  }

  /** Closes what `tryOpen` has opened. */
  close(fd: number): void {
    closeSync(fd);
    this.#open -= 1;
  }

  /** The file's text from its beginning; what is beyond 256 KiB is left out. Throws as readSync. */
  read(fd: number): string {
    const length = readSync(fd, this.#buffer, 0, this.#buffer.length, 0);
    if (length < this.#buffer.length) return this.#buffer.toString('latin1', 0, length);
    const large = Buffer.allocUnsafe(MAX_BYTES);
    return large.toString('latin1', 0, readSync(fd, large, 0, large.length, 0));
  }
}

/** One of them. */
export class KernelFile {
  readonly #path: string;
  readonly #files: KernelFiles;
  #fd: number | undefined;
  #isMissing = false;

  constructor(path: string, files: KernelFiles) {
    this.#path = path;
    this.#files = files;
  }

  /**
   * What it says now; undefined when it is not there or cannot be read, whatever the reason: a figure that nobody can
   * read is not known. One that was not there is not looked for again until it is closed.
   */
  read(): string | undefined {
    if (this.#isMissing) return undefined;
    try {
      this.#fd ??= this.#files.tryOpen(this.#path);
      return this.#fd === undefined ? readFileSync(this.#path, 'latin1') : this.#files.read(this.#fd);
    } catch {
      this.close();
      this.#isMissing = true;
      return undefined;
    }
  }

  /** Lets go of it. It may be read again later. */
  close(): void {
    this.#isMissing = false;
    if (this.#fd === undefined) return;
    this.#files.close(this.#fd);
    this.#fd = undefined;
  }
}

/** The soft limit on open files of this process. */
function readDescriptorLimit(): number {
  const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
  return soft === undefined ? 1024 : Number(soft);
}
