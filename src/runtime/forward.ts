import type { Readable, Writable } from 'node:stream';

/**
 * Passes a program's output on to a client, no faster than the client takes it, ends the client's stream with it, and
 * resolves when the client has taken all. A client that does not take it any more makes the program's next write fail.
 */
export async function forwardOutput(from: Readable | undefined, to: Writable | undefined): Promise<void> {
  if (!from || !to) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  to.once('finish', resolve);
  to.once('close', resolve);
  to.once('close', () => from.destroy());
  to.on('error', () => from.destroy());
  // A program's pipe does not break; a terminal that does has ended.
  from.once('error', () => to.end());
  from.pipe(to);
  await promise;
}

/**
 * Passes a client's input on to a program, no faster than the program reads it, and ends the program's input with it.
 * What comes after the program has stopped reading is read and dropped, so that it is not in the way of others on the
 * same connection.
 */
export function forwardInput(from: Readable | undefined, to: Writable | undefined): void {
  if (!from || !to) return;
  const end = (): void => void to.end();
  from.pipe(to);
  from.once('error', end);
  from.once('close', end);
  to.on('error', () => {});
  to.once('close', () => {
    from.unpipe(to);
    from.resume();
  });
}
