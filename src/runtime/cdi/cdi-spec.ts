import * as v from 'valibot';

import { BerthError, because } from '../../base/errors.ts';

/**
 * A file of the Container Device Interface: https://github.com/cncf-tags/container-device-interface, SPEC.md 1.0.0 and
 * its forerunners from 0.1.0 on. Null stands for "not given", as Go's encoder writes it; what the specification does
 * not know is an error, because a device that is set up by halves is worse than none.
 */
const HOOK_NAMES = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'] as const;
const MAX_ID = 2 ** 32 - 2;

const list = <T extends v.GenericSchema>(item: T) => v.nullish(v.array(item), []);
const text = v.pipe(
  v.string(),
  v.check((value) => !value.includes('\0'), 'has a NUL byte in it'),
);
const path = v.pipe(
  text,
  v.regex(/^\//, (issue) => `${issue.received} is not an absolute path`),
);
const id = v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(MAX_ID)));
const setting = v.pipe(
  text,
  v.regex(/^[^=]+=/, (issue) => `${issue.received} is not NAME=VALUE`),
);
const name = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$/, (issue) => `${issue.received} is not the name of a device`),
);
const annotations = v.nullish(v.record(v.string(), v.string()));

const deviceNode = v.strictObject({
  path,
  hostPath: v.nullish(text, ''),
  type: v.nullish(
    v.picklist(['b', 'c', 'u', 'p', ''], (issue) => `${issue.received} is not b, c, u or p`),
    '',
  ),
  major: v.nullish(v.pipe(v.number(), v.integer()), 0),
  minor: v.nullish(v.pipe(v.number(), v.integer()), 0),
  fileMode: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0))),
  permissions: v.nullish(
    v.pipe(
      v.string(),
      v.regex(/^[rwm]*$/, (issue) => `${issue.received} is not made of r, w, m`),
    ),
    '',
  ),
  uid: id,
  gid: id,
});

const mount = v.strictObject({
  hostPath: v.pipe(text, v.minLength(1, 'is empty')),
  containerPath: path,
  options: list(text),
  type: v.nullish(text, ''),
});

const hook = v.strictObject({
  hookName: v.picklist(HOOK_NAMES, (issue) => `${issue.received} is not a hook`),
  path,
  args: list(text),
  env: list(setting),
  timeout: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(1))),
});

const intelRdt = v.strictObject({
  closID: v.nullish(
    v.pipe(v.string(), v.maxLength(4095), v.regex(/^(?!\.{1,2}$)[^/\n]*$/, 'is not the name of a class of service')),
  ),
  l3CacheSchema: v.nullish(text),
  memBwSchema: v.nullish(text),
  schemata: v.nullish(v.array(text)),
  enableCMT: v.nullish(v.boolean()),
  enableMBM: v.nullish(v.boolean()),
  enableMonitoring: v.nullish(v.boolean()),
});

const editsSchema = v.strictObject({
  env: list(setting),
  deviceNodes: list(deviceNode),
  mounts: list(mount),
  hooks: list(hook),
  intelRdt: v.nullish(intelRdt),
  additionalGids: list(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(MAX_ID))),
});

const specSchema = v.strictObject({
  cdiVersion: v.pipe(
    v.string(),
    v.regex(/^v?[01]\.\d+\.\d+$/, (issue) => `version ${issue.received} is not known`),
  ),
  kind: v.pipe(
    v.string(),
    v.regex(
      /^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?\/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/,
      (issue) => `${issue.received} is not VENDOR/CLASS`,
    ),
  ),
  annotations,
  devices: v.pipe(
    v.array(v.strictObject({ name, annotations, containerEdits: editsSchema })),
    v.minLength(1, 'there are none'),
  ),
  containerEdits: v.nullish(editsSchema),
});

/** What a device changes of a container. */
export type CdiEdits = v.InferOutput<typeof editsSchema>;
export type CdiDeviceNode = CdiEdits['deviceNodes'][number];
export type CdiMount = CdiEdits['mounts'][number];

/** One file: devices of one kind. */
export interface CdiSpec {
  /** `vendor.com/class`. */
  readonly kind: string;
  /** For a container that has any of the devices, once. */
  readonly edits: CdiEdits | undefined;
  readonly devices: ReadonlyMap<string, CdiEdits>;
}

/** Reads the JSON of a file. Throws `invalid` that says what is wrong where. */
export function parseCdiSpec(json: string): CdiSpec {
  const result = v.safeParse(specSchema, parseJson(json));
  if (!result.success) {
    const [issue] = result.issues;
    const where = v.getDotPath(issue);
    throw new BerthError('invalid', where === null ? issue.message : `${where}: ${issue.message}`);
  }
  const { kind, devices, containerEdits } = result.output;
  const byName = new Map<string, CdiEdits>();
  for (const [index, device] of devices.entries()) {
    if (byName.has(device.name)) throw new BerthError('invalid', `devices.${index}.name: ${device.name} comes twice`);
    if (isEmpty(device.containerEdits))
      throw new BerthError('invalid', `devices.${index}.containerEdits: ${device.name} changes nothing`);
    byName.set(device.name, device.containerEdits);
  }
  return { kind, edits: containerEdits ?? undefined, devices: byName };
}

function isEmpty({ env, deviceNodes, mounts, hooks, intelRdt, additionalGids }: CdiEdits): boolean {
  return env.length + deviceNodes.length + mounts.length + hooks.length + additionalGids.length === 0 && !intelRdt;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (err) {
    throw because('invalid', 'it is not JSON', err);
  }
}
