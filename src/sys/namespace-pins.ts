import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';

import { forEachLimited } from '../base/limited.ts';
import { unlessGone } from './errno.ts';
import { bindMount, unmount, unmountAside } from './mount.ts';
import type { pinnedKinds } from './namespace-request.ts';

/** What can be pinned. */
export type PinnedKind = (typeof pinnedKinds)[number];

/**
 * Keeps a namespace alive without a process: binds its file of /proc onto the new file `<pinDir>/<kind>`. Throws
 * EEXIST when there is one.
 */
export function pinNamespace(source: string, pinDir: string, kind: PinnedKind): void {
  const pin = join(pinDir, kind);
  writeFileSync(pin, '', { flag: 'wx', mode: 0o444 });
  try {
    bindMount(source, pin);
  } catch (err) {
    rmSync(pin, { force: true });
    throw err;
  }
}

/** Lets go of these namespaces in a folder and removes their files. Safe to repeat. */
export function unpin(pinDir: string, kinds: readonly PinnedKind[]): void {
  for (const kind of kinds) {
    const pin = join(pinDir, kind);
    if (!existsSync(pin)) continue;
    unmount(pin);
    rmSync(pin, { force: true });
  }
}

/** As `unpin`, off the event loop, all of them also when one fails. */
export async function unpinAside(pinDir: string, kinds: readonly PinnedKind[]): Promise<void> {
  const pins = kinds.map((kind) => join(pinDir, kind)).filter((pin) => existsSync(pin));
  await forEachLimited(pins, pins.length, async (pin) => {
    await unmountAside(pin);
    await unlessGone(unlink(pin));
  });
}
