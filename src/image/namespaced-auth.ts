import { createHash } from 'node:crypto';
import { readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';

import { wrap } from '../base/errors.ts';
import type { CredentialSource } from './auth.ts';
import { AuthDocument } from './auth-file.ts';
import type { CredentialHelpers } from './credential-helpers.ts';
import { isMissing } from './last-good.ts';

/** What one pull may use, and no other. */
export interface NamespacedAuth extends CredentialSource {
  /** Tells contents apart without holding them: pulls with different ones are never joined. */
  readonly key: string;
}

const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * Takes the auth file that a credential provider of the kubelet left for one pull in one namespace:
 * `<dir>/<namespace>-<sha256 of the image's name as the pod has it>.json`, as CRI-O's credential provider writes it. It
 * is removed at once, so that no secret stays behind. Undefined when there is none. Throws `precondition` for one that
 * cannot be understood; it is removed too.
 */
export async function takeNamespacedAuth(
  dir: string,
  pull: { readonly namespace: string; readonly image: string },
  helpers: CredentialHelpers | undefined,
): Promise<NamespacedAuth | undefined> {
  if (dir === '' || !NAMESPACE.test(pull.namespace)) return undefined;
  const hash = createHash('sha256').update(pull.image).digest('hex');
  const path = join(dir, `${pull.namespace}-${hash}.json`);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
    await unlink(path);
  } catch (err) {
    if (isMissing(err)) return undefined;
    throw wrap(`take auth file ${path}`, err);
  }
  const document = new AuthDocument(text, path, helpers);
  const key = createHash('sha256').update(text).digest('hex');
  return { key, find: (endpoint, signal) => document.find(endpoint, signal) };
}
