import { check } from './errno.ts';

/** Arguments that koffi copies before a call begins: bytes would have to stay where they are until it ends. */
type Copied = readonly (string | number)[];

/** A function of the C library that a thread of libuv's pool may call in place of this one. */
export interface PoolCallable<A extends Copied> {
  readonly async: (...args: [...A, (err: unknown, rc: number) => void]) => void;
}

/**
 * As `check`, for a call that a thread of libuv's pool makes: it waits in the kernel, and the event loop does not. The
 * errno is that of the thread (koffi keeps it, and sets it for the callback alone: `AsyncCall` of its call.cc).
 */
export async function checkInPool<A extends Copied>(
  call: string,
  subject: string,
  fn: PoolCallable<A>,
  ...args: A
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  fn.async(...args, (err, rc) => {
    try {
      if (err !== null) throw err;
      resolve(check(call, subject, rc));
    } catch (problem) {
      reject(problem);
    }
  });
  return await promise;
}
