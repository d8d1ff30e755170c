/**
 * How many times longer than elsewhere everything may take in the virtual machine of `npm run test:vm`: its one processor
 * executes an instruction a nanosecond, a third to a fifth of what real ones do, and no two at a time.
 */
const SLOWNESS = process.env['BERTH_TEST_VM'] === undefined ? 1 : 6;

/**
 * A bound, in milliseconds, for what must not wait for something that takes minutes or never comes: far from both, so
 * that it tells them apart on a machine that does much else.
 */
export const SOON_MS = 60_000;

/** A budget of time, in whatever unit, for this machine: what it is on a real processor, and more on an emulated one. */
export function patient(budget: number): number {
  return budget * SLOWNESS;
}
