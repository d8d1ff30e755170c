import { ProgramPages } from '../sys/program-pages.ts';

/** By then what only a start needs is done with. */
const SETTLE_MS = 5000;
/** What has not been used for so long is not needed soon. */
const EVERY_MS = 60_000;

/** Gives memory back that berthd has for no use, every now and then: pages of its program that it does not run. */
export class SpareMemory {
  readonly #pages = new ProgramPages();
  #timer: NodeJS.Timeout | undefined;

  start(): void {
    this.#wait(SETTLE_MS);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #wait(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#pages.release();
      this.#wait(EVERY_MS);
    }, ms).unref();
  }
}
