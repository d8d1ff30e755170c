import type { Notice } from '../base/notices.ts';

/** A RuntimeClass of the cluster: the name that pods use, and the handler that it stands for. */
export interface RuntimeClass {
  readonly name: string;
  readonly handler: string;
}

/** What the thread is started with. */
export interface ThreadSettings {
  readonly kubeconfig: string;
  readonly nodeName: string;
  readonly sendEvents: boolean;
}

/** From berthd to the thread. */
export interface ToThread {
  readonly notice: Notice;
}

/** From the thread to berthd. */
export type FromThread =
  | { readonly kind: 'podRanges'; readonly ranges: readonly string[] }
  | { readonly kind: 'runtimeClasses'; readonly classes: readonly RuntimeClass[] }
  /** Something does not work; the thread tries again by itself. An empty problem: it works again. */
  | { readonly kind: 'problem'; readonly what: 'node' | 'runtime classes' | 'events'; readonly problem: string };
