import { setTimeout as delay } from 'node:timers/promises';

import { patient } from '../harness/patience.ts';

const PAUSE_MS = 100;

/**
 * Asks again and again until there is an answer, and throws, naming what it waited for, when there is none in time:
 * `timeoutMs` on a real processor, more on an emulated one.
 */
export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const giveUpAt = Date.now() + patient(timeoutMs);
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > giveUpAt) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await delay(patient(PAUSE_MS));
  }
}
