import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { withDeadline } from '../../base/deadline.ts';
import { BerthError } from '../../base/errors.ts';

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./yaml-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

const TIMEOUT_MS = 10_000;
const HEAP_MB = 64;
const JSON_LIMIT = 4 << 20;

/**
 * The JSON of a YAML document. A thread of its own reads it, since a long one takes a tenth of a second, and a hostile
 * one whatever it is given. Throws `invalid` that says what is wrong where.
 */
export async function yamlToJson(text: string): Promise<string> {
  const worker = new Worker(workerUrl, {
    workerData: text,
    execArgv: [],
    env: {},
    name: 'yaml',
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, maxYoungGenerationSizeMb: 8 },
  });
  using deadline = withDeadline('reading YAML', TIMEOUT_MS);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  worker.once('message', resolve);
  worker.once('error', (err: unknown) => reject(notYaml(err)));
  worker.once('exit', () => reject(new BerthError('invalid', 'it is not YAML')));
  deadline.addEventListener('abort', () => reject(deadline.reason), { once: true });
  try {
    const json = await promise;
    if (json.length > JSON_LIMIT) throw new BerthError('invalid', `it has more than ${JSON_LIMIT} characters as JSON`);
    return json;
  } finally {
    await worker.terminate();
  }
}

/** The parser's words go on with a picture over several lines. */
function notYaml(err: unknown): BerthError {
  const [reason = ''] = (err instanceof Error ? err.message : String(err)).split('\n', 1);
  return new BerthError('invalid', `it is not YAML: ${reason}`);
}
