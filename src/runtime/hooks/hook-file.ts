import * as v from 'valibot';

import { BerthError, because } from '../../base/errors.ts';
import type { OciHook, OciHookStage } from '../oci-spec.ts';

/**
 * A file that adds a hook to containers: the form that podman and CRI-O share (oci-hooks(5), schema 1.0.0). Null stands
 * for "not given", as Go's encoder writes it.
 */
const STAGES = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'] as const;

const GO_ANCHORS: Readonly<Record<string, string>> = Object.freeze({ '\\A': '^', '\\z': '$' });
/** Who makes a pod writes its annotations, and a pattern that begins with .* takes the square of their length. */
const MATCHED_LIMIT = 1024;

const pattern = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    try {
      return toRegExp(dataset.value);
    } catch (err) {
      addIssue({ message: err instanceof Error ? err.message : 'it is not a regular expression' });
      return NEVER;
    }
  }),
);

const fileSchema = v.object({
  version: v.literal('1.0.0', (issue) => `version ${issue.received} is not known; this is for 1.0.0`),
  hook: v.object({
    path: v.pipe(
      v.string(),
      v.regex(/^\/[^\0]*$/, (issue) => `${issue.received} is not an absolute path`),
    ),
    args: v.nullish(v.array(v.string())),
    env: v.nullish(
      v.array(
        v.pipe(
          v.string(),
          v.regex(/^[^=]+=/, (issue) => `${issue.received} is not NAME=VALUE`),
        ),
      ),
    ),
    timeout: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(1))),
  }),
  when: v.pipe(
    v.object({
      always: v.nullish(v.boolean()),
      annotations: v.nullish(v.record(v.string(), v.string()), {}),
      commands: v.nullish(v.array(pattern), []),
      hasBindMounts: v.nullish(v.boolean()),
    }),
    v.check(
      ({ always, annotations, commands, hasBindMounts }) =>
        typeof (always ?? hasBindMounts) === 'boolean' || commands.length + Object.keys(annotations).length > 0,
      'has no condition',
    ),
  ),
  stages: v.pipe(
    v.array(v.picklist(STAGES, (issue) => `${issue.received} is not a stage`)),
    v.minLength(1, 'there are none'),
  ),
});

/** What the conditions of a hook are about. */
export interface HookTarget {
  /** The program that the container runs. */
  readonly command: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** True when its client wants files of the host in it. */
  readonly hasBindMounts: boolean;
}

/** A hook, when in a container's life it runs, and for which containers. */
export interface HookFile {
  readonly hook: OciHook;
  readonly stages: readonly OciHookStage[];
  readonly conditions: HookConditions;
}

/** All that are given must hold. */
export interface HookConditions {
  readonly always: boolean | undefined;
  readonly hasBindMounts: boolean | undefined;
  /** For each pair there must be an annotation whose name and value match. */
  readonly annotations: readonly { readonly name: RegExp; readonly value: RegExp }[];
  /** One of them must match; none is no condition. */
  readonly commands: readonly RegExp[];
}

/** Reads a file. Throws `invalid` that says what is wrong where. */
export function parseHookFile(text: string): HookFile {
  const result = v.safeParse(fileSchema, parseJson(text));
  if (!result.success) {
    const [issue] = result.issues;
    throw new BerthError('invalid', `${v.getDotPath(issue) ?? 'file'}: ${issue.message}`);
  }
  const { hook, when, stages } = result.output;
  const { path, args, env, timeout } = hook;
  return {
    hook: { path, ...(args ? { args } : {}), ...(env ? { env } : {}), ...(timeout ? { timeout } : {}) },
    stages: [...new Set(stages)],
    conditions: {
      always: when.always ?? undefined,
      hasBindMounts: when.hasBindMounts ?? undefined,
      annotations: Object.entries(when.annotations).map(([name, value]) => ({
        name: patternAt(`when.annotations.${name}`, name),
        value: patternAt(`when.annotations.${name}`, value),
      })),
      commands: when.commands,
    },
  };
}

/** Whether a hook is for a container. */
export function isHookFor(conditions: HookConditions, { command, annotations, hasBindMounts }: HookTarget): boolean {
  // As podman has it: a condition that is false holds for nobody.
  if (conditions.always === false || conditions.hasBindMounts === false) return false;
  if (conditions.hasBindMounts === true && !hasBindMounts) return false;
  const pairs = Object.entries(annotations);
  const annotated = conditions.annotations.every(({ name, value }) =>
    pairs.some(([key, text]) => matches(name, key) && matches(value, text)),
  );
  const commanded = conditions.commands.length === 0 || conditions.commands.some((item) => matches(item, command));
  return annotated && commanded;
}

/** A text beyond the limit matches nothing. */
function matches(item: RegExp, text: string): boolean {
  return text.length <= MATCHED_LIMIT && item.test(text);
}

function patternAt(field: string, text: string): RegExp {
  try {
    return toRegExp(text);
  } catch (err) {
    throw because('invalid', field, err);
  }
}

/**
 * A pattern in Go's notation, which the files are written in. What ECMAScript has not, or has with another meaning, is
 * an error: an expression that silently means something else would run a hook for the wrong containers.
 */
function toRegExp(text: string): RegExp {
  const flags = /^\(\?([ims]+)\)/.exec(text)?.[1] ?? '';
  const rest = flags === '' ? text : text.slice(flags.length + '(?)'.length);
  const translated = rest.replaceAll(/\\./gsu, (pair) => GO_ANCHORS[pair] ?? pair);
  return new RegExp(translated, `u${[...new Set(flags)].join('')}`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (err) {
    throw because('invalid', 'it is not JSON', err);
  }
}
