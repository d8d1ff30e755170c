import * as threads from 'node:worker_threads';

import { load, YAML11_SCHEMA } from 'js-yaml';

const MAX_VALUES = 200_000;

const { parentPort, workerData }: { parentPort: threads.MessagePort | null; workerData: unknown } = threads;

// YAML as the CDI's own library reads it: 0644 is octal, yes is true.
if (typeof workerData === 'string') {
  const document: unknown = load(workerData, { schema: YAML11_SCHEMA });
  checkSize(document);
  parentPort?.postMessage(JSON.stringify(document) ?? 'null');
}

/** In memory an alias is a reference, as text it is as large as what it stands for: a few lines may be billions. */
function checkSize(document: unknown): void {
  const rest = [document];
  for (let count = 0; rest.length > 0; count++) {
    const value = rest.pop();
    if (typeof value === 'object' && value !== null)
      for (const part of Object.values(value as Readonly<Record<string, unknown>>)) rest.push(part);
    if (count + rest.length > MAX_VALUES) throw new Error(`it has more than ${MAX_VALUES} values`);
  }
}
