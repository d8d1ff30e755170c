import { Metadata, type ServerWritableStream } from '@grpc/grpc-js';

/** The part of a gRPC stream that sending needs. */
export type Sink<Message> = Pick<ServerWritableStream<unknown, Message>, 'sendMetadata' | 'write'>;

/**
 * Sends everything that `messages` yields, each when the one before has gone out, so that a slow client holds up its
 * own stream and takes no memory. Headers go out when `messages` has been asked for the first one: a client that has
 * them knows that it misses nothing from there on. When `signal` aborts, throws the signal's reason at once and tells
 * `messages` to end; what that waits for meanwhile must end by the same signal.
 */
export async function sendStream<Message>(
  stream: Sink<Message>,
  messages: AsyncIterable<Message>,
  signal: AbortSignal,
  onSent: () => void,
): Promise<void> {
  const iterator = messages[Symbol.asyncIterator]();
  const { promise: gone, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    signal.throwIfAborted();
    let next = iterator.next();
    stream.sendMetadata(new Metadata());
    for (;;) {
      const result = await Promise.race([next, gone]);
      if (result.done) return;
      // gRPC never calls back for a client that has left, nor for a message that it cannot send: both abort the signal.
      await Promise.race([written(stream, result.value), gone]);
      onSent();
      next = iterator.next();
    }
  } catch (err) {
    // Not awaited: a generator that is waiting ends only when its wait does.
    void iterator.return?.().catch(() => {});
    throw err;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

async function written<Message>(stream: Sink<Message>, message: Message): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  stream.write(message, (err: Error | null | undefined) => (err ? reject(err) : resolve()));
  return promise;
}
