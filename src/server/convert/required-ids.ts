import { invalid } from '../../base/errors.ts';

/** Ids that no request which has them can do without; filters, which can, are messages of their own. */
const REQUIRED = { podSandboxId: 'pod_sandbox_id', containerId: 'container_id' } as const;

/**
 * Throws `invalid` for an id that is empty: it is the beginning of all ids and so means none, and Stop and Remove, which
 * take an unknown id for success, would hide a client's mistake.
 */
export function checkRequiredIds(request: unknown): void {
  if (typeof request !== 'object' || request === null) return;
  for (const [key, field] of Object.entries(REQUIRED)) {
    if (key in request && Reflect.get(request, key) === '') throw invalid(field, 'is empty');
  }
}
