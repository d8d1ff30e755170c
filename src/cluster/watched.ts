import {
  type KubeConfig,
  type KubernetesListObject,
  type KubernetesObject,
  ListWatch,
  Watch,
} from '@kubernetes/client-node';

import { describe } from '../base/errors.ts';

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;
/**
 * After so long without a word a watch is taken up anew, as its connection may be dead. Bookmarks come about once a
 * minute: with less than two of these, each node of a cluster would ask its API server all over again all the time.
 */
const QUIET_MS = 150_000;

/** What is watched. */
export interface WatchedParts<T extends KubernetesObject> {
  readonly config: KubeConfig;
  /** Below the server, such as /api/v1/nodes. */
  readonly path: string;
  readonly fieldSelector?: string;
  readonly list: () => Promise<KubernetesListObject<T>>;
  /** All objects there are, after each change. */
  readonly onChange: (objects: readonly T[]) => void;
  /** The credentials are not taken (any more): others may be in the kubeconfig by now. */
  readonly onUnauthorized: () => void;
  /** What is wrong; '' when it works again. Told once for each change. */
  readonly onProblem: (problem: string) => void;
  readonly pauses?: { readonly firstMs: number; readonly longestMs: number };
  readonly quietMs?: number;
}

/**
 * Objects of the API server, kept current: a list, then a watch from its resource version on, taken up again where it
 * ended, and a new list when the server has forgotten that version (410 Gone). Kubernetes API concepts, "Efficient
 * detection of changes". Errors are told, and tried again for ever with growing pauses.
 */
export class Watched<T extends KubernetesObject> {
  readonly #parts: WatchedParts<T>;
  readonly #pauses: { readonly firstMs: number; readonly longestMs: number };
  readonly #watch: ListWatch<T>;
  #pauseMs: number;
  #timer: NodeJS.Timeout | undefined;
  #problem = '';
  #failures = 0;
  #isClosed = false;

  constructor(parts: WatchedParts<T>) {
    this.#parts = parts;
    const pauses = parts.pauses ?? { firstMs: FIRST_PAUSE_MS, longestMs: LONGEST_PAUSE_MS };
    this.#pauses = pauses;
    this.#pauseMs = pauses.firstMs;
    const path = `${parts.path}?allowWatchBookmarks=true`;
    const list = async (): Promise<KubernetesListObject<T>> => await this.#listed();
    const watch = new Watch(parts.config);
    // The library's own is half a minute, and it has no other way to say so.
    Object.assign(watch, { requestTimeoutMs: parts.quietMs ?? QUIET_MS });
    this.#watch = new ListWatch<T>(path, watch, list, false, undefined, parts.fieldSelector);
    this.#watch.on('change', () => this.#changed());
    this.#watch.on('error', (err: unknown) => this.#failed(err));
  }

  /** Begins; returns when the watch has been taken up, or that has failed. */
  async start(): Promise<void> {
    const failuresBefore = this.#failures;
    // Its own promise may fail where its error event does not come: when the credentials cannot be read.
    await this.#watch.start().catch((err: unknown) => this.#failed(err));
    // Where nothing has changed meanwhile, no change tells that all is well again.
    if (this.#failures === failuresBefore && !this.#isClosed) this.#works();
  }

  /** Ends the watch and all further tries. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#watch.stop();
  }

  // Also an empty list is an answer, for which no change is told.
  async #listed(): Promise<KubernetesListObject<T>> {
    const list = await this.#parts.list();
    queueMicrotask(() => this.#changed());
    return list;
  }

  #changed(): void {
    if (this.#isClosed) return;
    this.#works();
    this.#parts.onChange([...this.#watch.list()]);
  }

  #works(): void {
    this.#pauseMs = this.#pauses.firstMs;
    this.#tell('');
  }

  #failed(err: unknown): void {
    if (this.#isClosed) return;
    this.#failures += 1;
    this.#tell(problemOf(err));
    if (statusOf(err) === 401) this.#parts.onUnauthorized();
    clearTimeout(this.#timer);
    // Whole nodes lose their API server at once: they shall not all come back in the same moment.
    this.#timer = setTimeout(() => void this.start(), this.#pauseMs * (0.5 + Math.random() / 2));
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#pauses.longestMs);
  }

  #tell(problem: string): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#parts.onProblem(problem);
  }
}

/** An error of the API server or of the way to it, in one line. The library's message has the whole answer in it. */
export function problemOf(err: unknown): string {
  const code = statusOf(err);
  if (code === undefined) return describe(err);
  const body = typeof err === 'object' && err !== null && 'body' in err ? err.body : undefined;
  return `the API server answers ${code}${messageIn(body)}`;
}

/** The HTTP status of an answer that the library threw. */
export function statusOf(err: unknown): number | undefined {
  if (typeof err !== 'object' || err === null) return undefined;
  const { code, statusCode } = err as { code?: unknown; statusCode?: unknown };
  const status = code ?? statusCode;
  return typeof status === 'number' ? status : undefined;
}

function messageIn(body: unknown): string {
  const value: unknown = typeof body === 'string' ? parsed(body) : body;
  const message = typeof value === 'object' && value !== null && 'message' in value ? value.message : undefined;
  return typeof message === 'string' && message !== '' ? `: ${message.slice(0, 500)}` : '';
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
