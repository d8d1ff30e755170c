import { closeFd } from '../sys/at.ts';
import { FdStream } from '../sys/fd-stream.ts';
import { createPipe } from '../sys/pipe.ts';

/** No pipe holds more, unless a privileged process makes it (pipe(7)). */
export const LAST_OUTPUT_BYTES = 1024 * 1024;

/** The pipes of one command, and that none of their ends stays open. */
export class ExecPipes implements Disposable {
  readonly #streams: FdStream[] = [];
  readonly #theirs: number[] = [];

  /** A pipe for the command's output: its end, and ours. */
  output(): [number, FdStream] {
    const { readFd, writeFd } = createPipe();
    return this.#own(writeFd, new FdStream(readFd, { readable: true }));
  }

  /** A pipe for the command's input: its end, and ours. */
  input(): [number, FdStream] {
    const { readFd, writeFd } = createPipe();
    return this.#own(readFd, new FdStream(writeFd, { writable: true }));
  }

  /** Closes the command's ends in this process; it has them by now. */
  closeTheirs(): void {
    for (let fd = this.#theirs.pop(); fd !== undefined; fd = this.#theirs.pop()) closeFd(fd);
  }

  [Symbol.dispose](): void {
    this.closeTheirs();
    for (const stream of this.#streams) stream.destroy();
  }

  #own(theirs: number, stream: FdStream): [number, FdStream] {
    this.#theirs.push(theirs);
    this.#streams.push(stream);
    return [theirs, stream];
  }
}
