import type { ClientStreams, WindowSize } from './client-streams.ts';

/** winsize of ioctl_tty(2) has 16 bits for each. */
const LARGEST = 0xffff;

/** Hears of a client's window sizes, without those that are none: clients send 0 when they do not know. */
export function onWindowSize(client: ClientStreams, listener: (size: WindowSize) => void): void {
  client.onResize?.((size) => {
    if (isCount(size.width) && isCount(size.height)) listener(size);
  });
}

function isCount(count: number): boolean {
  return Number.isInteger(count) && count > 0 && count <= LARGEST;
}
