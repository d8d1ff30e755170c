import { BerthError } from '../../../base/errors.ts';

/** The other side does not speak SPDY/3.1: the connection cannot go on. */
export function protocolError(problem: string): BerthError {
  return new BerthError('invalid', `SPDY: ${problem}`);
}
