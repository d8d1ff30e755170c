/** What is told of many measurements of one thing, in the unit of the measurements. */
export interface Figures {
  readonly count: number;
  readonly min: number;
  readonly p50: number;
  /** By nearest rank: of fewer than 100 measurements it is the largest. */
  readonly p99: number;
}

/** Figures of at least one measurement; throws RangeError when there is none. */
export function figuresOf(values: readonly number[]): Figures {
  const sorted = values.toSorted((a, b) => a - b);
  const [min] = sorted;
  if (min === undefined) throw new RangeError('figures of no measurements');
  const rank = (share: number): number => sorted[Math.ceil(share * sorted.length) - 1] ?? min;
  return { count: sorted.length, min, p50: median(sorted), p99: rank(0.99) };
}

/** The middle value, or the mean of the two in the middle; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
  return (lower + upper) / 2;
}
