import type { WindowSize } from '../../runtime/client-streams.ts';

/** A size takes some 30 bytes; what is longer and still not complete is no size. */
const MAX_KEPT_CHARS = 1024;
/** A window size has 16 bits a side (ioctl_tty(2)). */
const MAX_SIDE = 0xffff;

/**
 * Reads what a client sends on its resize stream: one JSON object with Width and Height after the other. What is not
 * understood is passed over, and so is 0 by 0, which clients send when they do not know.
 */
export class TerminalSizes {
  readonly #listeners: ((size: WindowSize) => void)[] = [];
  #last: WindowSize | undefined;
  #kept = '';

  /** Calls the listener with the newest size that came before, if any, and with all that come. */
  onResize(listener: (size: WindowSize) => void): void {
    this.#listeners.push(listener);
    if (this.#last) listener(this.#last);
  }

  /** Takes what has come in. */
  feed(bytes: Buffer): void {
    // Only the newest size counts, and it is at the end, however much a client sends at once.
    this.#kept = (this.#kept + bytes.subarray(-MAX_KEPT_CHARS).toString('latin1')).slice(-MAX_KEPT_CHARS);
    const end = this.#kept.lastIndexOf('}') + 1;
    // Each object is flat, so it ends with the first closing brace. Of several at once only the last one counts.
    const sizes = this.#kept
      .slice(0, end)
      .split(/(?<=\})/)
      .map(parseSize);
    const newest = sizes.findLast((size) => size !== undefined);
    if (newest) this.#publish(newest);
    this.#kept = this.#kept.slice(end);
  }

  #publish(size: WindowSize): void {
    this.#last = size;
    for (const listener of this.#listeners) listener(size);
  }
}

function parseSize(text: string): WindowSize | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const sides = new Map(Object.entries<unknown>({ ...value }).map(([name, side]) => [name.toLowerCase(), side]));
  const width = toSide(sides.get('width'));
  const height = toSide(sides.get('height'));
  return width === undefined || height === undefined ? undefined : { width, height };
}

function toSide(value: unknown): number | undefined {
  return Number.isInteger(value) && Number(value) > 0 && Number(value) <= MAX_SIDE ? Number(value) : undefined;
}
