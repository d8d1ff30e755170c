import { readFileSync } from 'node:fs';

import * as v from 'valibot';

/** Made by test/deploy/field-tables from the Go types of Kubernetes, kubeadm and kind. */
const FILE = new URL('../fixtures/field-tables.json', import.meta.url);

const fieldSchema = v.object({ type: v.string(), versions: v.optional(v.array(v.string())) });
const tablesSchema = v.record(
  v.string(),
  v.object({
    versions: v.array(v.string()),
    types: v.record(v.string(), v.record(v.string(), fieldSchema)),
    aliases: v.record(v.string(), v.string()),
  }),
);

/** Fields of the types of one API group. */
export type FieldTable = v.InferOutput<typeof tablesSchema>[string];

/** The table of `kubelet`, `kubeadm` or `kind`. */
export function readFieldTable(name: string): FieldTable {
  const tables = v.parse(tablesSchema, JSON.parse(readFileSync(FILE, 'utf8')));
  const table = tables[name];
  if (!table) throw new Error(`field-tables.json has no ${name}`);
  return table;
}

/** Types of other packages that are written as one scalar. */
const SCALARS: Readonly<Record<string, string>> = Object.freeze({ 'metav1.Duration': 'duration' });

/**
 * What is wrong with a value of a Go type, strictly: unknown fields, wrong kinds of values, fields that not every version
 * in `versions` knows. Each begins with its path.
 */
export function problemsOf(
  table: FieldTable,
  type: string,
  value: unknown,
  versions: readonly string[],
  path = type,
): string[] {
  const plain = type.replace(/^\*/, '');
  const fields = table.types[plain];
  if (fields) return objectProblems(table, fields, value, versions, path);
  const list = /^\[\](.+)$/.exec(plain)?.[1];
  if (list !== undefined) {
    if (!Array.isArray(value)) return [`${path}: is no list`];
    return value.flatMap((item: unknown, i) => problemsOf(table, list, item, versions, `${path}[${i}]`));
  }
  const [, keyType, valueType] = /^map\[(\w+)\](.+)$/.exec(plain) ?? [];
  if (keyType !== undefined && valueType !== undefined) {
    if (!isObject(value)) return [`${path}: is no object`];
    return Object.entries(value).flatMap(([key, item]) =>
      problemsOf(table, valueType, item, versions, `${path}.${key}`),
    );
  }
  const alias = table.aliases[plain];
  if (alias !== undefined) return problemsOf(table, alias, value, versions, path);
  return isScalar(SCALARS[plain] ?? plain, value) ? [] : [`${path}: is no ${plain}: ${JSON.stringify(value)}`];
}

function objectProblems(
  table: FieldTable,
  fields: FieldTable['types'][string],
  value: unknown,
  versions: readonly string[],
  path: string,
): string[] {
  if (!isObject(value)) return [`${path}: is no object`];
  const embedded = Object.keys(fields)
    .filter((key) => key.startsWith('...'))
    .map((key) => table.types[key.slice(3)] ?? {});
  // What every object of Kubernetes' API has.
  const isTop = '...metav1.TypeMeta' in fields;
  return Object.entries(value).flatMap(([key, item]) => {
    if (isTop && (key === 'apiVersion' || key === 'kind')) return [];
    const field = [fields, ...embedded].find((known) => Object.hasOwn(known, key))?.[key];
    if (!field) return [`${path}.${key}: unknown field`];
    const lacking = versions.filter((version) => field.versions !== undefined && !field.versions.includes(version));
    if (lacking.length > 0) return [`${path}.${key}: not known to ${lacking.join(', ')}`];
    return problemsOf(table, field.type, item, versions, `${path}.${key}`);
  });
}

function isScalar(type: string, value: unknown): boolean {
  if (/^u?int\d*$/.test(type)) return Number.isInteger(value);
  if (type === 'bool') return typeof value === 'boolean';
  if (type === 'duration') return typeof value === 'string' && /^(\d+(\.\d+)?(ns|us|ms|s|m|h))+$/.test(value);
  return type === 'string' && typeof value === 'string';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
