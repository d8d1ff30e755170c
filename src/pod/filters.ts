import type { ContainerRecord, ContainerState, SandboxRecord } from './records.ts';

/** Which sandboxes a client wants listed. All given conditions hold together. */
export interface SandboxFilter {
  /** An id or the beginning of one. */
  readonly id?: string;
  readonly ready?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Which containers a client wants listed. All given conditions hold together. */
export interface ContainerFilter {
  /** An id or the beginning of one. */
  readonly id?: string;
  readonly sandboxId?: string;
  readonly state?: ContainerState;
  readonly labels?: Readonly<Record<string, string>>;
}

/** True for a sandbox that the client may see and wants to. One that is still being made is not there yet. */
export function matchesSandbox(record: SandboxRecord, filter: SandboxFilter): boolean {
  if (record.state === 'creating') return false;
  if (filter.id !== undefined && !record.id.startsWith(filter.id)) return false;
  if (filter.ready !== undefined && filter.ready !== (record.state === 'ready')) return false;
  return hasLabels(record.spec.labels, filter.labels);
}

/** True for a container that the client may see and wants to. One that is still being made is not there yet. */
export function matchesContainer(record: ContainerRecord, filter: ContainerFilter): boolean {
  if (record.state === 'creating') return false;
  if (filter.id !== undefined && !record.id.startsWith(filter.id)) return false;
  if (filter.sandboxId !== undefined && !record.sandboxId.startsWith(filter.sandboxId)) return false;
  if (filter.state !== undefined && filter.state !== record.state) return false;
  return hasLabels(record.spec.labels, filter.labels);
}

function hasLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>> = {}): boolean {
  return Object.entries(wanted).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}
