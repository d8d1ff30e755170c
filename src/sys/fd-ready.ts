import koffi from 'koffi';

/**
 * Resolves when a descriptor can be read without waiting; throws the signal's reason. It must stay open meanwhile, and
 * becomes non-blocking. The event loop's own epoll watches it, so this costs no thread and no polling; a pending wait
 * keeps the process alive.
 */
export async function fdReadable(fd: number, signal?: AbortSignal): Promise<void> {
  await ready(fd, { readable: true }, signal);
}

/** As fdReadable, for writing: of a socket that connects, when it has or has failed to. */
export async function fdWritable(fd: number, signal?: AbortSignal): Promise<void> {
  await ready(fd, { writable: true }, signal);
}

async function ready(
  fd: number,
  events: { readable?: boolean; writable?: boolean },
  signal: AbortSignal | undefined,
): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // koffi calls back outside of Node's callback scope, so nothing promises that microtasks run next; an immediate does,
  // in this same turn of the loop.
  const handle = koffi.node.poll(fd, events, () => {
    handle.stop();
    setImmediate(resolve);
  });
  const onAbort = (): void => reject(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await promise;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    handle.close();
  }
}
