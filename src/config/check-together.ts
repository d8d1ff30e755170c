import type { ConfigProblems } from './config-problems.ts';
import { suggest, type Values } from './read-values.ts';
import { DEFAULT_HANDLERS } from './schema.ts';

/** Checks what only shows when all files are merged. What follows from a mistake that is noted already is not noted. */
export function checkTogether(values: Values, problems: ConfigProblems): void {
  if (!problems.isComplete) return;
  const fail = (path: string, problem: string, ...causes: readonly string[]): void => {
    if (![path, ...causes].some((key) => problems.has(key)))
      problems.add(values.get(path)?.at ?? 'defaults', path, problem);
  };
  const text = (path: string): string => String(values.get(path)?.value ?? '');
  const handlers = handlerNames(values);
  for (const name of handlers) {
    const path = `runtime.handlers.${name}`;
    if (!Object.hasOwn(DEFAULT_HANDLERS, name) && !values.has(`${path}.path`))
      fail(path, 'has no path', `${path}.path`);
  }
  const chosen = text('runtime.default_runtime') || 'auto';
  if (chosen !== 'auto' && !handlers.includes(chosen)) {
    fail('runtime.default_runtime', `no handler is called ${chosen}${suggest(chosen, ['auto', ...handlers])}`);
  }
  for (const [path, needed] of [
    ['stream.tls_cert', 'stream.tls_key'],
    ['stream.tls_key', 'stream.tls_cert'],
    ['stream.tls_client_ca', 'stream.tls_cert'],
    ['metrics.tls_cert', 'metrics.tls_key'],
    ['metrics.tls_key', 'metrics.tls_cert'],
    ['metrics.tls_client_ca', 'metrics.tls_cert'],
    ['tracing.tls_cert', 'tracing.tls_key'],
    ['tracing.tls_key', 'tracing.tls_cert'],
  ] as const) {
    if (text(path) !== '' && text(needed) === '') fail(path, `needs ${needed} as well`, needed);
  }
  for (const path of ['tracing.tls_ca', 'tracing.tls_cert']) {
    if (text(path) !== '' && text('tracing.tls') !== 'true') fail(path, 'needs tracing.tls = true', 'tracing.tls');
  }
}

/** The handlers that are there: the built-in ones, and those that have a table. */
export function handlerNames(values: Values): string[] {
  const configured = [...values.keys()].flatMap((path) => /^runtime\.handlers\.([^.]+)$/.exec(path)?.[1] ?? []);
  return [...new Set([...Object.keys(DEFAULT_HANDLERS), ...configured])];
}
