import { invalid } from '../../base/errors.ts';

/** An int64 of the wire as a number. Throws `invalid` outside [min, max] or where a double is not exact. */
export function toNumber(value: bigint, field: string, { min, max }: { min: number; max?: number }): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw invalid(field, `${value} is out of range`);
  if (number < min) throw invalid(field, `${value} is less than ${min}`);
  if (max !== undefined && number > max) throw invalid(field, `${value} is more than ${max}`);
  return number;
}

/** Microseconds of a record as the wire's nanoseconds; undefined is the wire's 0, "not yet". */
export function toNanos(timeUs: number | undefined): bigint {
  return timeUs === undefined ? 0n : BigInt(timeUs) * 1000n;
}
