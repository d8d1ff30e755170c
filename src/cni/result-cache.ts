import { rmSync, writeFileSync } from 'node:fs';
import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';

import * as v from 'valibot';

import { describe, invalid, wrap } from '../base/errors.ts';
import { forEachLimited } from '../base/limited.ts';
import type { Logger } from '../base/log.ts';
import { makeFolders } from '../base/make-folders.ts';
import { unlessGone } from '../sys/errno.ts';
import { replaceFile } from '../sys/replace-file.ts';
import { type AttachmentKey, checkKey } from './attachment.ts';
import { jsonObject, parseJson } from './json.ts';
import { networkConfigFromJson, networkConfigToJson } from './network-config.ts';
import type { Attached } from './plugin-chain.ts';
import { wireResultFromJson } from './plugin-result.ts';
import { readSmallFile } from './small-file.ts';

const FORMAT = 'berth-cni-attachment-1';

const entrySchema = v.object({
  format: v.literal(FORMAT, 'is not one that this version knows'),
  containerId: v.string(),
  ifName: v.string(),
  netns: v.string(),
  cniArgs: v.string(),
  capabilityArgs: jsonObject,
  network: jsonObject,
  result: v.optional(jsonObject),
});

/**
 * What each attachment was made with, so that DEL, CHECK and GC hand the plugins the same (CNI 1.1, section 3), also
 * after a restart. Kept in memory, and in one file each, `<network>-<containerId>-<ifName>.json`. A file is written by
 * rename but not synced: after a power cut the namespaces are gone too, and DEL falls back to the current network.
 */
export class ResultCache {
  readonly #dir: string;
  readonly #log: Logger;
  readonly #entries = new Map<string, Attached>();
  #writes = 0;

  constructor(cacheDir: string, log: Logger) {
    this.#dir = join(cacheDir, 'results');
    this.#log = log;
  }

  /** Makes the folder and reads what an earlier run left. A file that cannot be read is logged and left alone. */
  async load(): Promise<void> {
    makeFolders(this.#dir, 0o700);
    await forEachLimited(await readdir(this.#dir), 8, async (name) => {
      const path = join(this.#dir, name);
      if (name.endsWith('.tmp')) return rmSync(path, { force: true });
      if (!name.endsWith('.json')) return;
      try {
        const entry = parseEntry(await readSmallFile(path));
        if (fileName(entry) !== name) throw invalid('file', `holds the attachment of ${fileName(entry)}`);
        this.#entries.set(keyOf(entry), entry);
      } catch (err) {
        this.#log.warn({ file: path, err: describe(err) }, 'a cached CNI result cannot be used');
      }
    });
  }

  /** What is kept of an attachment. */
  find(key: AttachmentKey): Attached | undefined {
    return this.#entries.get(keyOf(key));
  }

  /** All attachments that are kept. */
  all(): Attached[] {
    return [...this.#entries.values()];
  }

  /** Keeps an attachment, in place of what was kept of it. Throws when the file cannot be written. */
  put(entry: Attached): void {
    const { network, ...rest } = entry;
    const text = JSON.stringify({ format: FORMAT, ...rest, network: networkConfigToJson(network) });
    this.#writes += 1;
    const draft = join(this.#dir, `${process.pid}-${this.#writes}.tmp`);
    try {
      // A few kilobytes into the page cache: quicker than a turn through the thread pool, on the way of every pod start.
      writeFileSync(draft, text, { mode: 0o600 });
      replaceFile(draft, join(this.#dir, fileName(entry)));
    } catch (err) {
      rmSync(draft, { force: true });
      throw wrap('keep the CNI attachment', err);
    }
    this.#entries.set(keyOf(entry), entry);
  }

  /** Forgets an attachment, once its file is gone. An unknown one is success. The caller puts none meanwhile. */
  async remove(key: AttachmentKey): Promise<void> {
    const entry = this.find(key);
    if (!entry) return;
    // By the pool: a removal waits for whoever changes the file system, for tens of milliseconds while many pods end.
    await unlessGone(unlink(join(this.#dir, fileName(entry)))).catch((err: unknown) => {
      throw wrap(`forget CNI attachment ${fileName(entry)}`, err);
    });
    this.#entries.delete(keyOf(key));
  }
}

function parseEntry(text: string): Attached {
  const { format: _checked, network, result, ...rest } = parseJson(entrySchema, text, 'file');
  checkKey(rest);
  return {
    ...rest,
    network: networkConfigFromJson(network),
    ...(result ? { result: wireResultFromJson(result) } : {}),
  };
}

function keyOf({ containerId, ifName }: AttachmentKey): string {
  return `${containerId} ${ifName}`;
}

// Each part has been checked: none has a slash, and none is too long.
function fileName({ network, containerId, ifName }: Attached): string {
  return `${network.name}-${containerId}-${ifName}.json`;
}
