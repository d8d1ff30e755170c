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

const text = v.nullish(v.string(), '');
const schema = v.object({
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
  const { history, rootfs } = parsed(configBytes);
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

function parsed(configBytes: Uint8Array): v.InferOutput<typeof schema> {
  try {
    const result = v.safeParse(schema, JSON.parse(Buffer.from(configBytes).toString('utf8')));
    if (result.success) return result.output;
    const [issue] = result.issues;
    throw new BerthError('precondition', `"${v.getDotPath(issue) ?? '.'}": ${issue.message}`);
  } catch (err) {
    throw because('precondition', "the image's configuration has no history that can be read", err);
  }
}
