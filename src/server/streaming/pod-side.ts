import type { Duplex, Readable, Writable } from 'node:stream';

/** What a client gives to, and takes from, a command in a container. A stream is absent when it did not ask for it. */
export interface ClientStreams {
  /** Its 'end' is the client's half-close. */
  readonly stdin?: Readable;
  readonly stdout?: Writable;
  readonly stderr?: Writable;
  onResize?(listener: (size: { width: number; height: number }) => void): void;
}

/** What the streaming server asks of the pods. */
export interface PodSide {
  /** Throws `notFound` or `precondition` when nothing can be run in the container. */
  checkExec(containerId: string): { readonly containerId: string };
  /** Throws `notFound`, `precondition`, or `invalid` when the container was not made as the client believes. */
  checkAttach(
    containerId: string,
    options: { readonly tty: boolean; readonly stdin: boolean },
  ): { readonly containerId: string };
  /** Throws `notFound` or `precondition` when the sandbox has no network to connect in. */
  checkPortForward(sandboxId: string): { readonly sandboxId: string };
  exec(
    containerId: string,
    command: { readonly command: readonly string[]; readonly tty: boolean },
    streams: ClientStreams,
    signal: AbortSignal,
  ): Promise<number>;
  attach(
    containerId: string,
    options: { readonly tty: boolean },
    streams: ClientStreams,
    signal: AbortSignal,
  ): Promise<void>;
  portForward(sandboxId: string, port: number, client: Duplex, signal: AbortSignal): Promise<void>;
}
