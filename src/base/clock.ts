/** Microseconds since the Unix epoch: exact in a double until the year 2255, so records need no bigint. */
export type UnixMicros = number;

/** Where the time comes from, so that tests can hand in their own. */
export interface Clock {
  /** Wall-clock time now. */
  nowUs(): UnixMicros;
  /** Milliseconds on a clock that never jumps, for durations. */
  monotonicMs(): number;
}

/** The machine's clocks. */
export const systemClock: Clock = {
  nowUs: () => Math.round((performance.timeOrigin + performance.now()) * 1000),
  monotonicMs: () => performance.now(),
};
