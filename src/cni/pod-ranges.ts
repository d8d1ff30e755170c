import { createHash } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { dirname, join } from 'node:path';

import { because, describe, invalid, wrap } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import { makeFoldersAside } from '../base/make-folders.ts';
import { parseNetworkConfig } from './network-config.ts';
import { readSmallFile } from './small-file.ts';

/** What Berth writes in the folder of network configurations. */
const FILE = '10-berth-pods.conflist';
/** A node has one range, or one of each family (Node.spec.podCIDRs). */
const RANGES_LIMIT = 2;

/** What stands for what in a template; whoever needs another form writes the configuration himself. */
type Placeholder = '{{POD_CIDR}}' | '{{POD_CIDRS}}' | '{{POD_RANGES}}' | '{{POD_ROUTES}}';

/** What the configuration is made from, and where it goes. */
export interface PodRangesParts {
  readonly confDir: () => string;
  readonly template: string;
  /** Where it is noted what was written, as sha256sum(1) does: who purges Berth takes that away, unless it was changed. */
  readonly noteFile: string;
  readonly log: Logger;
}

/**
 * The network configuration that is made from the node's addresses for pods: a template, whose placeholders are filled
 * when the kubelet or the cluster names the ranges.
 */
export class PodRanges {
  readonly #parts: PodRangesParts;
  readonly #lock = new KeyedLock();

  /** Without a template ('') nothing is ever written. */
  constructor(parts: PodRangesParts) {
    this.#parts = parts;
  }

  /**
   * Writes the configuration for these ranges, unless it is there already. Throws `invalid`, naming `field`, for ranges that are none,
   * `precondition` when the template is missing or does not come out as a network; what is there stays then.
   */
  async write(field: string, ranges: readonly string[], signal: AbortSignal): Promise<void> {
    checkPodRanges(field, ranges);
    const { confDir, template, noteFile, log } = this.#parts;
    if (template === '') {
      log.info(
        { ranges },
        'pod address ranges were named; the CNI configuration decides (cni.conf_template is not set)',
      );
      return;
    }
    if (ranges.length === 0) return;
    const file = join(confDir(), FILE);
    await this.#lock.withKey(file, signal, async () => {
      const text = await renderTemplate(template, ranges);
      const isThere = (await readIfThere(file)) === text;
      const next = `${file}.next`;
      try {
        if (!isThere) await writeFile(next, text, { mode: 0o644 });
        // The note first: it fits only what is written then. What an earlier berthd has written may have none.
        await noteWritten(noteFile, file, text);
        if (isThere) return;
        await rename(next, file);
      } catch (err) {
        await rm(next, { force: true });
        throw wrap(`write the network for pods ${file}`, err);
      }
      log.info({ ranges, file }, 'the network for pods has been written from its template');
    });
  }
}

async function noteWritten(noteFile: string, file: string, text: string): Promise<void> {
  const note = `${createHash('sha256').update(text).digest('hex')}  ${file}\n`;
  if ((await readIfThere(noteFile)) === note) return;
  await makeFoldersAside(dirname(noteFile), 0o755);
  await writeFile(noteFile, note, { mode: 0o600 });
}

function checkPodRanges(field: string, ranges: readonly string[]): void {
  const families = ranges.map((range) => {
    const [address = '', bits = '', ...rest] = range.split('/');
    const family = isIP(address);
    const isRange =
      family !== 0 && rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128);
    if (!isRange) throw invalid(field, `${JSON.stringify(range)} is not a range such as 10.1.0.0/16`);
    return family;
  });
  if (ranges.length > RANGES_LIMIT || new Set(families).size !== families.length)
    throw invalid(field, `${ranges.join()}: a node has one range of each family at most`);
}

/** Throws `precondition` for a template that would make no network, whatever the ranges are. */
export async function checkTemplate(template: string): Promise<void> {
  await renderTemplate(template, ['192.0.2.0/24', '2001:db8::/64']);
}

async function renderTemplate(template: string, ranges: readonly string[]): Promise<string> {
  try {
    const text = await readSmallFile(template);
    const filled = `${JSON.stringify(fill(JSON.parse(text), valuesFor(ranges)), undefined, 2)}\n`;
    parseNetworkConfig(filled);
    return filled;
  } catch (err) {
    // Not the caller's mistake: whoever runs the node must mend it.
    throw because('precondition', `cni.conf_template: ${template} makes no network: ${describe(err)}`, undefined);
  }
}

function valuesFor(ranges: readonly string[]): ReadonlyMap<string, unknown> {
  const everywhere = ranges.map((range) => ({ dst: range.includes(':') ? '::/0' : '0.0.0.0/0' }));
  const values: [Placeholder, unknown][] = [
    ['{{POD_CIDR}}', ranges[0]],
    ['{{POD_CIDRS}}', ranges],
    // As host-local takes them: a set of ranges for each address that a pod gets.
    ['{{POD_RANGES}}', ranges.map((subnet) => [{ subnet }])],
    ['{{POD_ROUTES}}', everywhere],
  ];
  return new Map(values);
}

function fill(value: unknown, values: ReadonlyMap<string, unknown>): unknown {
  if (typeof value === 'string') return values.get(value) ?? value;
  if (Array.isArray(value)) return value.map((item: unknown) => fill(item, values));
  if (typeof value !== 'object' || value === null) return value;
  const entries: [string, unknown][] = Object.entries(value);
  return Object.fromEntries(entries.map(([key, item]) => [key, fill(item, values)]));
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return undefined;
    throw wrap(`read ${file}`, err);
  }
}
