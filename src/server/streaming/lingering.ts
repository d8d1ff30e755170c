/** How long clients are waited for when the daemon stops. */
const FAREWELL_MS = 1_000;

/** Waits until `closed`, for `lingerMs` at the longest, and for a moment only once the daemon stops. */
export async function lingering(closed: Promise<unknown>, lingerMs: number, stopping: AbortSignal): Promise<void> {
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  let timer = setTimeout(resolve, lingerMs).unref();
  const hurry = (): void => {
    clearTimeout(timer);
    timer = setTimeout(resolve, Math.min(lingerMs, FAREWELL_MS));
  };
  if (stopping.aborted) hurry();
  else stopping.addEventListener('abort', hurry, { once: true });
  await Promise.race([closed, enough]);
  clearTimeout(timer);
  stopping.removeEventListener('abort', hurry);
}
