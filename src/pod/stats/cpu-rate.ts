/** Shorter windows say more about the scheduler than about the container. */
const MIN_WINDOW_MS = 900;
/** What was longer ago says nothing about now. */
const MAX_WINDOW_MS = 60_000;
const NANOS_PER_MS = 1_000_000;

/** Makes a rate of a counter of processor time: nanoseconds per second, so that 1e9 is one core. */
export class CpuRate {
  #base: { readonly atMs: number; readonly nanos: number } | undefined;
  #nanoCores: number | undefined;

  /** `bornMs` is when the counter was 0, on the clock that update() uses. */
  constructor(bornMs: number) {
    this.#base = { atMs: bornMs, nanos: 0 };
  }

  /**
   * Takes the counter's value and returns the rate over the last window of about a second or more; undefined as long as
   * there was none, or the last one has passed long ago.
   */
  update(atMs: number, nanos: number): number | undefined {
    const base = this.#base;
    const windowMs = base ? atMs - base.atMs : 0;
    // A counter that runs backwards belongs to another set of containers than before.
    if (!base || windowMs > MAX_WINDOW_MS || windowMs < 0 || nanos < base.nanos) {
      this.#base = { atMs, nanos };
      this.#nanoCores = undefined;
    } else if (windowMs >= MIN_WINDOW_MS) {
      this.#base = { atMs, nanos };
      this.#nanoCores = Math.round(((nanos - base.nanos) / (windowMs * NANOS_PER_MS)) * 1e9);
    }
    return this.#nanoCores;
  }
}
