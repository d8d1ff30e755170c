import type { Readable, Writable } from 'node:stream';

/** The size of a terminal's window, in characters. */
export interface WindowSize {
  readonly width: number;
  readonly height: number;
}

/**
 * A client's streams, each absent when the client did not ask for it. The runtime's side reads stdin no faster than the
 * program does, and waits for `drain` of stdout and stderr, so that a slow client slows down the program and fills
 * nobody's memory; it ends stdout and stderr when nothing more comes. The end of stdin is the client's half-close.
 * Whoever made them destroys them.
 */
export interface ClientStreams {
  readonly stdin?: Readable;
  readonly stdout?: Writable;
  readonly stderr?: Writable;
  /** Takes who wants to hear of new window sizes, and of the latest one if there was one. */
  onResize?(listener: (size: WindowSize) => void): void;
}
