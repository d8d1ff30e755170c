import type { ErrorKind } from '../base/errors.ts';
import type { KeptLayer, LayerCheck } from './assemble-layer.ts';
import type { ExtractedMember, ExtractRequest } from './extract-archive.ts';
import type { DescribeRequest, ImplyingLayer, InheritedFolders } from './inherited-folders.ts';
import type { TreeWalk } from './tree-usage.ts';
import type { UnpackedLayer, UnpackRequest } from './unpack-layer.ts';
import type { UpperChanges } from './upper-changes.ts';
import type { ArchiveEntry } from './write-archive.ts';

/** What disk workers do: everything that keeps a thread busy for more than a moment. Request and answer of each. */
export interface DiskJobs {
  /** Unpacks a layer; the target folder is gone when it fails. */
  readonly unpack: { readonly request: UnpackRequest; readonly answer: UnpackedLayer };
  /** Takes the files out of an image archive; the target folder is gone when it fails. */
  readonly extract: { readonly request: ExtractRequest; readonly answer: readonly ExtractedMember[] };
  /** Compares a layer on disk with the archive that it came from. */
  readonly check: { readonly request: KeptLayer; readonly answer: LayerCheck };
  /** Writes a tar into a descriptor that may be slow to take it; it stays the caller's. */
  readonly archive: {
    readonly request: { readonly fd: number; readonly entries: readonly ArchiveEntry[] };
    readonly answer: undefined;
  };
  /** The sha256 digest of a file that is no symbolic link, beneath a folder. */
  readonly digest: { readonly request: { readonly folder: string; readonly name: string }; readonly answer: string };
  /** Removes a tree; one that is gone is success. */
  readonly remove: { readonly request: string; readonly answer: undefined };
  /** As `remove`, of what nobody waits for: it leaves the rest when it is cancelled. */
  readonly discard: { readonly request: string; readonly answer: undefined };
  /** What groups of trees take on disk; those of a group together. */
  readonly usage: { readonly request: readonly (readonly string[])[]; readonly answer: readonly TreeWalk[] };
  /** What the folders of an image inherit from each other's layers. */
  readonly inherit: { readonly request: readonly ImplyingLayer[]; readonly answer: InheritedFolders };
  /** Has folders of a mounted snapshot look as they should. */
  readonly describe: {
    readonly request: DescribeRequest;
    readonly answer: undefined;
  };
  /** What a container did to its image's files. */
  readonly changes: {
    readonly request: { readonly upper: string; readonly list: string };
    readonly answer: UpperChanges;
  };
  /** Writes the file system of a folder to stable storage. */
  readonly sync: { readonly request: string; readonly answer: undefined };
}

/** Where jobs are done. */
export interface DiskPlace {
  /**
   * Does a job; when the signal aborts, it stops at its next step, takes back what it made, and fails as `cancelled`.
   * With `alone`, no other job's end takes this one along.
   */
  ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
    alone?: boolean,
  ): Promise<DiskJobs[K]['answer']>;
  /** Makes ready for jobs to come, where that takes a while. */
  prepare?(): void;
  /** Waits for jobs that are being done, and ends what does them. */
  close(): Promise<void>;
}

/** What a thread is sent; the first element of `cancelled` turns 1 when nobody wants the answer. */
export type DiskRequest = {
  readonly [K in keyof DiskJobs]: {
    readonly job: K;
    readonly request: DiskJobs[K]['request'];
    readonly cancelled: Int32Array;
  };
}[keyof DiskJobs];

/** What it sends back; an error loses its class on the way, and keeps its kind and words. */
export type DiskAnswer =
  | { readonly answer: DiskJobs[keyof DiskJobs]['answer'] }
  | { readonly kind: ErrorKind; readonly message: string };
