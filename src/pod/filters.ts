import { BerthError } from '../base/errors.ts';
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

/** True for what clients may see: what is still being made, or was made for a client that left, is not there yet. */
export function isVisible(record: SandboxRecord | ContainerRecord): boolean {
  return record.state !== 'creating';
}

/** The record, when clients may see it. Throws `notFound`; `kind` is how the error calls it. */
export function visible<R extends SandboxRecord | ContainerRecord>(record: R, kind: string): R {
  if (!isVisible(record)) throw new BerthError('notFound', `${kind} ${record.id} is still being made`);
  return record;
}

/** Sorts records as lists show them. */
export function newestFirst<R extends { createdAtUs: number }>(records: R[]): R[] {
  return records.sort((a, b) => b.createdAtUs - a.createdAtUs);
}

/** True for a sandbox that the client may see and wants to. */
export function matchesSandbox(record: SandboxRecord, filter: SandboxFilter): boolean {
  if (!isVisible(record)) return false;
  if (filter.id !== undefined && !record.id.startsWith(filter.id)) return false;
  if (filter.ready !== undefined && filter.ready !== (record.state === 'ready')) return false;
  return hasLabels(record.spec.labels, filter.labels);
}

/** True for a container that the client may see and wants to. */
export function matchesContainer(record: ContainerRecord, filter: ContainerFilter): boolean {
  if (!isVisible(record)) return false;
  if (filter.id !== undefined && !record.id.startsWith(filter.id)) return false;
  if (filter.sandboxId !== undefined && !record.sandboxId.startsWith(filter.sandboxId)) return false;
  if (filter.state !== undefined && filter.state !== record.state) return false;
  return hasLabels(record.spec.labels, filter.labels);
}

function hasLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>> = {}): boolean {
  return Object.entries(wanted).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}
