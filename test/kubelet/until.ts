import { setTimeout as delay } from 'node:timers/promises';

const PAUSE_MS = 100;

/** Asks again and again until there is an answer, and throws, naming what it waited for, when there is none in time. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const giveUpAt = Date.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > giveUpAt) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await delay(PAUSE_MS);
  }
}
