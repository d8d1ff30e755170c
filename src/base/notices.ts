/** What a notice is about, in one word as Kubernetes' events have it. */
export type NoticeReason =
  /** Records or layers were damaged or lost; the message tells what became of them. */
  | 'StorageDamaged'
  /** What was damaged is whole again. */
  | 'StorageRepaired'
  /** The signature policy does not let an image run. */
  | 'ImageRefused'
  /** An OCI runtime, a CNI plugin or another program did not end in its time and was killed. */
  | 'ProgramHanging'
  /** A container has ended, and nobody knows how. */
  | 'ContainerLost';

/** A pod as its client names it. */
export interface NoticedPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/** Something that the node's owner should hear of, and that the kubelet cannot see or does not tell. */
export interface Notice {
  readonly reason: NoticeReason;
  readonly message: string;
  /** Whom it happened to; without a pod it is the node. */
  readonly pod?: NoticedPod;
}

/** Takes notices to where somebody sees them. Never throws, and never waits. */
export interface Notices {
  tell(notice: Notice): void;
}

/** Tells nobody. */
export const silentNotices: Notices = { tell() {} };
