import type { OciHook, OciHookStage, OciSpec } from '../oci-spec.ts';

/** A program and when in a container's life it runs. */
export interface StagedHook {
  readonly stage: OciHookStage;
  readonly hook: OciHook;
}

/** A config.json with more hooks, behind those that it has. */
export function addHooks(spec: OciSpec, added: readonly StagedHook[]): OciSpec {
  if (added.length === 0) return spec;
  const hooks: { [S in OciHookStage]?: readonly OciHook[] } = { ...spec.hooks };
  for (const { stage, hook } of added) hooks[stage] = [...(hooks[stage] ?? []), hook];
  return { ...spec, hooks };
}
