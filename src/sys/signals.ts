import { constants } from 'node:os';

import { invalid } from '../base/errors.ts';

/** `SIGTERM`, `SIGKILL`, ... */
export type SignalName = NodeJS.Signals;

/** The number of a signal. Throws `invalid` for a name that this system does not know. */
export function signalNumber(name: SignalName): number {
  const number = constants.signals[name];
  if (number === undefined) throw invalid('signal', `unknown signal ${name}`);
  return number;
}

/** The name of a signal; real-time signals, which Node has no names for, are `SIGRT<number>`. */
export function signalName(number: number): string {
  const found = Object.entries(constants.signals).find(([, value]) => value === number);
  return found ? found[0] : `SIGRT${number}`;
}
