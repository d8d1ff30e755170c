import * as v from 'valibot';

import { invalid } from '../base/errors.ts';

/** A JSON object whose keys nobody has looked at. */
export type JsonObject = Readonly<Record<string, unknown>>;

const ISSUE_LIMIT_CHARS = 200;

/** Parses JSON text and checks it. Throws `invalid` that names the field, or `subject` when all of it is wrong. */
export function parseJson<const S extends v.GenericSchema>(schema: S, text: string, subject: string): v.InferOutput<S> {
  return checkJson(schema, jsonFromText(text, subject), subject);
}

/** Parses JSON text. Throws `invalid` that names `subject`. */
export function jsonFromText(text: string, subject: string): unknown {
  if (text.trim() === '') throw invalid(subject, 'is empty');
  try {
    return JSON.parse(text);
  } catch (err) {
    throw invalid(subject, `is not JSON: ${clip(err instanceof Error ? err.message : String(err))}`);
  }
}

/** Checks a parsed value. Throws `invalid` that names the first field that does not fit. */
export function checkJson<const S extends v.GenericSchema>(
  schema: S,
  value: unknown,
  subject: string,
): v.InferOutput<S> {
  const checked = v.safeParse(schema, value);
  if (checked.success) return checked.output;
  const [issue] = checked.issues;
  throw invalid(v.getDotPath(issue) ?? subject, clip(issue.message));
}

/** A value that is an object, as it came: unknown keys and their values stay untouched. */
export const jsonObject = v.custom<JsonObject>(
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  'must be an object',
);

/** One line of at most 200 characters: what comes from outside goes to logs and status messages. */
export function clip(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > ISSUE_LIMIT_CHARS ? `${line.slice(0, ISSUE_LIMIT_CHARS)}...` : line;
}
