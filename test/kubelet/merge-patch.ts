/** Lists of the API whose elements have a key; others are replaced as a whole. */
const KEYS: Readonly<Record<string, string>> = {
  conditions: 'type',
  podIPs: 'ip',
  hostIPs: 'ip',
  addresses: 'type',
  containers: 'name',
};

/** A strategic merge patch of Kubernetes, as far as a kubelet sends them: null removes a field, keyed lists are merged. */
export function mergePatch(before: unknown, patch: unknown, field = ''): unknown {
  if (Array.isArray(patch)) return mergeList(Array.isArray(before) ? before : [], patch, KEYS[field]);
  if (!isObject(patch)) return patch;
  const merged: Record<string, unknown> = isObject(before) ? { ...before } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (name.startsWith('$')) continue;
    if (value === null) delete merged[name];
    else merged[name] = mergePatch(merged[name], value, name);
  }
  return merged;
}

function mergeList(before: readonly unknown[], patch: readonly unknown[], key: string | undefined): unknown[] {
  if (key === undefined) return patch.map((value) => mergePatch(undefined, value));
  const merged = new Map(before.filter(isObject).map((value) => [value[key], value]));
  for (const value of patch.filter(isObject)) {
    if (value['$patch'] === 'delete') merged.delete(value[key]);
    else merged.set(value[key], mergePatch(merged.get(value[key]), value) as Record<string, unknown>);
  }
  return [...merged.values()];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
