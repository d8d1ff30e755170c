/** Pulls from registries, as the CRI asks for them: joined, counted, and seen while they run. */

import type { Clock } from '../base/clock.ts';
import { withDeadline } from '../base/deadline.ts';
import { describe, findCause, isKind, kindOf, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Meter, Outcome } from '../base/meter.ts';
import type { Notices } from '../base/notices.ts';
import { type CredentialSource, credentialFromRequest, credentialKey, type RegistryAuth } from './auth.ts';
import type { AuthFile } from './auth-file.ts';
import type { CredentialHelpers } from './credential-helpers.ts';
import { candidateReferences, resolveReference } from './endpoints.ts';
import type { ImageRecord } from './image-record.ts';
import type { LiveImageSettings } from './image-settings.ts';
import { JoinedWork } from './joined-work.ts';
import { takeNamespacedAuth } from './namespaced-auth.ts';
import type { Claim } from './present-images.ts';
import { type PullDeps, pullFailure, pullImage } from './pull.ts';
import { newPullProgress, type PullProgress } from './pull-progress.ts';
import { formatReference, type ImageReference, recordedName, repositoryOf } from './reference.ts';
import type { ResolvedImage } from './resolve-image.ts';
import type { SettledImages } from './settled-images.ts';
import { ruleFor, type TrustEvidence, UntrustedImageError } from './trust.ts';

/** What pulls are made with. */
interface PullsParts extends Omit<PullDeps, 'maxParallelDownloads'> {
  readonly settled: SettledImages;
  readonly authFile: AuthFile;
  readonly helpers: CredentialHelpers;
  readonly log: Logger;
  readonly meter: Meter;
  readonly notices?: Notices | undefined;
  readonly clock: Clock;
}

/** One pull, as it was asked for. */
interface AskedPull extends Claim {
  readonly auth: RegistryAuth | undefined;
  readonly credentials: readonly CredentialSource[];
}

/** The pulls of this node. */
export class ImagePulls {
  readonly #parts: PullsParts;
  #settings: LiveImageSettings;
  readonly #joined = new JoinedWork<ImageRecord>();
  readonly #progress = new Set<PullProgress>();

  constructor(parts: PullsParts, settings: LiveImageSettings) {
    this.#parts = parts;
    this.#settings = settings;
  }

  /** Follows other settings from now on; pulls that run go on as they began. */
  follow(settings: LiveImageSettings): void {
    this.#settings = settings;
  }

  /** As Images.pull(). */
  async pull(
    text: string,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
    namespace: string,
  ): Promise<ImageRecord> {
    const { registries, trust, authFile, helpers } = this.#parts;
    const { namespacedAuthDir } = this.#settings;
    const references = resolveReference(text, await registries.loadRules());
    const own = await takeNamespacedAuth(namespacedAuthDir, { namespace, image: text }, helpers);
    const policy = await trust.policyOf(namespace).catch((err: unknown) => {
      throw wrap(`SignatureValidationFailed: pull ${text}`, err);
    });
    const brought = credentialFromRequest(auth);
    const proof = JSON.stringify([credentialKey(brought), auth?.serverAddress ?? '', own?.key]);
    const credentials = own ? [own, authFile] : [authFile];
    const common = { auth, credentials, proof: brought || own ? proof : undefined };
    return await firstThatPulls(references, signal, async (reference) => {
      const key = JSON.stringify([formatReference(reference), proof, policy.file]);
      const rule = ruleFor(policy, reference);
      return await this.#joined.join(key, signal, (shared) => this.#pull({ ...common, reference, rule }, shared));
    });
  }

  /** How far the running pulls have come, oldest first; with a `text`, only those that it may mean. Throws `invalid`. */
  inFlight(text: string): readonly Readonly<PullProgress>[] {
    if (text === '') return [...this.#progress];
    const meant = new Set(candidateReferences(text, this.#parts.registries.rules).map(formatReference));
    return [...this.#progress].filter(({ reference }) => meant.has(reference));
  }

  /** Ends those that run, which leave nothing visible. */
  async close(reason: unknown): Promise<void> {
    await this.#joined.close(reason);
  }

  /** Has an operator hear of an image that the policy refuses. */
  tellRefusal(image: string, err: unknown): void {
    if (!findCause(err, UntrustedImageError)) return;
    this.#parts.notices?.tell({ reason: 'ImageRefused', message: `image ${image} is not run: ${describe(err)}` });
  }

  async #pull(asked: AskedPull, shared: AbortSignal): Promise<ImageRecord> {
    const { clock, meter, log } = this.#parts;
    const { pullTimeoutMs, maxParallelDownloads } = this.#settings;
    const name = formatReference(asked.reference);
    const startedMs = clock.monotonicMs();
    const progress = newPullProgress(name, clock.nowUs(), clock.monotonicMs);
    this.#progress.add(progress);
    let outcome: Outcome = 'ok';
    try {
      using signal = withDeadline(`pull ${name}`, pullTimeoutMs, shared);
      const deps = { ...this.#parts, maxParallelDownloads, log: log.child({ image: name }) };
      const request = { ...asked, progress };
      const record = await pullImage(deps, request, signal, (image, evidence) =>
        this.#appear(asked, image, evidence, signal),
      );
      const ms = Math.round(clock.monotonicMs() - startedMs);
      const from = progress.servedBy;
      log.info({ image: name, id: record.id, from, bytes: progress.traffic.bytes, ms }, 'image pulled');
      return record;
    } catch (err) {
      outcome = kindOf(err);
      meter.pullFailed(pullFailure(err));
      this.tellRefusal(name, err);
      throw err;
    } finally {
      this.#progress.delete(progress);
      meter.pull(outcome, progress.traffic.bytes, (clock.monotonicMs() - startedMs) / 1000);
    }
  }

  async #appear(
    asked: AskedPull,
    image: ResolvedImage,
    trust: TrustEvidence,
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    const { reference } = asked;
    const byDigest = `${repositoryOf(reference)}@${image.digest}`;
    const { configBytes, document, annotations, artifactType } = image;
    const openDigests = asked.proof === undefined ? [byDigest] : [];
    const origin = { annotations, trust, openDigests, ...(artifactType === undefined ? {} : { artifactType }) };
    const names = [recordedName(reference), byDigest];
    const record = await this.#parts.settled.add({ configBytes, document, origin, names }, signal);
    return this.#parts.present.named(record, asked, image.digest);
  }
}

/** A short name may stand for several references; the registries say which of them there is. */
async function firstThatPulls<T>(
  references: readonly ImageReference[],
  signal: AbortSignal,
  pull: (reference: ImageReference) => Promise<T>,
): Promise<T> {
  const failures: unknown[] = [];
  for (const reference of references) {
    try {
      return await pull(reference);
    } catch (err) {
      signal.throwIfAborted();
      failures.push(err);
      if (!isKind(err, 'notFound', 'permission', 'unavailable')) break;
    }
  }
  const [first, ...more] = failures;
  if (more.length === 0) throw first;
  const last = more.at(-1);
  throw wrap(`no search registry has it (${failures.slice(0, -1).map(describe).join('; ')})`, last);
}
