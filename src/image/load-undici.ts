import { createRequire } from 'node:module';
import { setImmediate } from 'node:timers/promises';

import type { Agent, Dispatcher } from 'undici';

/** What of undici Berth uses. */
export interface Undici {
  readonly Agent: typeof Agent;
  /** As undici's own, by this dispatcher. */
  request(dispatcher: Dispatcher, options: Dispatcher.RequestOptions): Promise<Dispatcher.ResponseData>;
}

/** In the order in which they need each other, so that none takes more than some milliseconds. */
const PARTS: readonly string[] = Object.freeze([
  'core/symbols',
  'core/errors',
  'core/util',
  'core/diagnostics',
  'core/request',
  'core/connect',
  'dispatcher/client-h1',
  'dispatcher/client-h2',
  'dispatcher/client',
  'dispatcher/pool',
  'dispatcher/agent',
  'api/api-request',
]);

/**
 * Loads undici part by part, with turns of the event loop between them: as a whole it stops the loop for 60 ms, and two
 * thirds of it (fetch, WebSocket, caches) are never used here.
 */
export async function loadUndici(): Promise<Undici> {
  const require = createRequire(import.meta.url);
  const load = (part: string): unknown => require(`undici/lib/${part}.js`);
  for (const part of PARTS) {
    load(part);
    await setImmediate();
  }
  const request = load('api/api-request') as (
    this: Dispatcher,
    options: Dispatcher.RequestOptions,
  ) => Promise<Dispatcher.ResponseData>;
  return {
    Agent: load('dispatcher/agent') as typeof Agent,
    request: async (dispatcher, options) => await request.call(dispatcher, options),
  };
}
