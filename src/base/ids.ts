import { randomBytes } from 'node:crypto';

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** 64 lower-case hex digits that name a pod sandbox. */
export type SandboxId = Branded<'SandboxId'>;
/** 64 lower-case hex digits that name a container. */
export type ContainerId = Branded<'ContainerId'>;

/** A fresh random sandbox id. */
export function newSandboxId(): SandboxId {
  return randomBytes(32).toString('hex') as SandboxId;
}

/** A fresh random container id. */
export function newContainerId(): ContainerId {
  return randomBytes(32).toString('hex') as ContainerId;
}
