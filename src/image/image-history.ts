import * as v from 'valibot';

import { BerthError, because } from '../base/errors.ts';

/** A step by which an image was built. */
export interface HistoryEntry {
  /** As the builder wrote it, RFC 3339; empty where it did not say. */
  readonly created: string;
  readonly createdBy: string;
  readonly comment: string;
  /** The layer that the step made; empty for one that changed the configuration only. */
  readonly diffId: string;
  /** What that layer takes on disk; 0 without one. */
  readonly sizeBytes: number;
}

/** What the configuration of an image says of its build; texts are empty where it does not say. */
export interface ImageBuild {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
  /** As the builder wrote it, RFC 3339. */
  readonly created: string;
  /** As imageHistory(). */
  readonly history: readonly HistoryEntry[];
}

const text = v.nullish(v.string(), '');
const schema = v.object({
  os: text,
  architecture: text,
  variant: text,
  created: text,
  rootfs: v.object({ diff_ids: v.nullish(v.array(v.string()), []) }),
  history: v.nullish(
    v.array(v.object({ created: text, created_by: text, comment: text, empty_layer: v.nullish(v.boolean(), false) })),
    [],
  ),
});

/**
 * How an image was built, newest step first, from its configuration (OCI image spec, "Image Configuration", history).
 * Layers that the builder says nothing of come too. Throws `precondition` for a configuration that cannot be read.
 */
export function imageHistory(configBytes: Uint8Array, sizeOf: (diffId: string) => number): HistoryEntry[] {
  return historyOf(parsed(configBytes), sizeOf);
}

/** How, when and for what an image was built. Throws as imageHistory() does. */
export function imageBuild(configBytes: Uint8Array, sizeOf: (diffId: string) => number): ImageBuild {
  const document = parsed(configBytes);
  const { os, architecture, variant, created } = document;
  return { os, architecture, variant, created, history: historyOf(document, sizeOf) };
}

function historyOf({ history, rootfs }: Document, sizeOf: (diffId: string) => number): HistoryEntry[] {
  const left = [...rootfs.diff_ids];
  const entries = history.map(({ created, created_by: createdBy, comment, empty_layer: isEmpty }) => {
    const diffId = isEmpty ? '' : (left.shift() ?? '');
    return { created, createdBy, comment, diffId, sizeBytes: diffId === '' ? 0 : sizeOf(diffId) };
  });
  const untold = left.map((diffId) => ({
    created: '',
    createdBy: '',
    comment: '',
    diffId,
    sizeBytes: sizeOf(diffId),
  }));
  return [...entries, ...untold].reverse();
}

type Document = v.InferOutput<typeof schema>;

function parsed(configBytes: Uint8Array): Document {
  try {
    const result = v.safeParse(schema, JSON.parse(Buffer.from(configBytes).toString('utf8')));
    if (result.success) return result.output;
    const [issue] = result.issues;
    throw new BerthError('precondition', `"${v.getDotPath(issue) ?? '.'}": ${issue.message}`);
  } catch (err) {
    throw because('precondition', "the image's configuration has no history that can be read", err);
  }
}
