import { constants } from 'node:os';

import { BerthError } from '../base/errors.ts';

/** glibc keeps two of the kernel's real-time signals for itself (signal(7)). */
const RTMIN = 34;
const RTMAX = 64;

/**
 * A signal as images and clients spell it (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`) in one form, the name with `SIG`.
 * Undefined for what is no signal.
 */
export function parseSignal(text: string): string | undefined {
  const word = text.trim().toUpperCase();
  if (/^\d{1,2}$/.test(word)) return nameOf(Number(word));
  const name = word.startsWith('SIG') ? word : `SIG${word}`;
  return numberOf(name) === undefined ? undefined : name;
}

/** The number of a signal that parseSignal() has named. */
export function signalNumber(name: string): number {
  const number = numberOf(name);
  if (number === undefined) throw new BerthError('internal', `${name} is not a signal`);
  return number;
}

function numberOf(name: string): number | undefined {
  const realTime = /^SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (!realTime) return Object.entries(constants.signals).find(([known]) => known === name)?.[1];
  const [, end, sign = '+', distance = '0'] = realTime;
  const number = (end === 'MIN' ? RTMIN : RTMAX) + Number(`${sign}${distance}`);
  return number >= RTMIN && number <= RTMAX ? number : undefined;
}

function nameOf(number: number): string | undefined {
  if (number >= RTMIN && number <= RTMAX)
    return number - RTMIN <= 15
      ? `SIGRTMIN+${number - RTMIN}`.replace('+0', '')
      : `SIGRTMAX-${RTMAX - number}`.replace('-0', '');
  return Object.entries(constants.signals).find(([, known]) => known === number)?.[0];
}
