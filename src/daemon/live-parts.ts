import { describe } from '../base/errors.ts';
import { atPlace, type FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { Cni } from '../cni/cni.ts';
import type { Config } from '../config/load-config.ts';
import type { Images } from '../image/images.ts';
import type { SecurityParts } from '../pod/pod-deps.ts';
import type { SpareNetworks } from '../pod/spare-networks.ts';
import type { Processes } from '../proc/processes.ts';
import type { Handlers } from '../runtime/handlers.ts';
import type { DaemonLogger } from './logger.ts';
import { nothingToPrepare, type Prepared } from './prepared.ts';
import { openSecurityParts } from './security-parts.ts';
import type { SentTraces } from './sent-traces.ts';
import type { ServedMetrics } from './served-metrics.ts';

/** Where tests disturb a reload: whatever may be refused. */
export const RELOAD_PLACES = ['Reload/containers', 'Reload/handlers', 'Reload/traces', 'Reload/metrics'] as const;

/** The parts of a berthd that follow a new configuration while pods run. */
export interface LiveParts {
  readonly images: Pick<Images, 'follow'>;
  readonly cni: Pick<Cni, 'follow'>;
  readonly spareNetworks: Pick<SpareNetworks, 'follow'>;
  readonly handlers: Pick<Handlers, 'become'>;
  /** Asks the runtimes of a configuration what they are. */
  readonly probe: (runtime: Config['runtime']) => Promise<Handlers>;
  /** What new containers get is read from it. */
  readonly security: { -readonly [K in keyof SecurityParts]: SecurityParts[K] };
  readonly processes: Processes;
  readonly metrics: Pick<ServedMetrics, 'prepare'>;
  readonly traces: Pick<SentTraces, 'prepare'>;
  readonly log: Logger & Pick<DaemonLogger, 'setLevel' | 'setFormat'>;
  readonly faults: FaultPoints | undefined;
}

/**
 * Has all parts follow `next`, or none: each first makes ready what may turn out to be unusable, and only when all have
 * that do they take it over. Throws why one refused, with every part as it was. `changed` are the keys that differ.
 */
export async function followConfig(
  parts: LiveParts,
  next: Config,
  changed: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const ready: Prepared[] = [];
  const preparations = preparationsOf(parts, next, changed, signal);
  try {
    for (const place of RELOAD_PLACES) {
      const prepare = async (): Promise<void> => void ready.push(await preparations[place]());
      await atPlace(parts.faults, place, prepare, signal);
    }
  } catch (err) {
    for (const { drop } of ready.reverse()) await orTell(parts.log, drop, 'what a refused configuration began is left');
    throw err;
  }
  parts.log.setLevel(next.log.level);
  parts.log.setFormat(next.log.format);
  parts.images.follow(next.image);
  for (const { take } of ready) await orTell(parts.log, take, 'a part does not follow the new configuration');
  if (isAbout(changed, /^cni\./)) await parts.cni.follow(next.cni);
  parts.spareNetworks.follow(next.cni.spareNetworks);
}

function preparationsOf(
  parts: LiveParts,
  next: Config,
  changed: readonly string[],
  signal: AbortSignal,
): Record<(typeof RELOAD_PLACES)[number], () => Promise<Prepared>> {
  const { processes, log } = parts;
  return {
    async 'Reload/containers'() {
      if (!isAbout(changed, /^runtime\./)) return nothingToPrepare;
      const security = openSecurityParts(next, { processes, log });
      await security.apparmor.start(signal);
      // Labels that are given out must stay known: SELinux keeps its part.
      const take = (): void => void Object.assign(parts.security, { ...security, selinux: parts.security.selinux });
      return { ...nothingToPrepare, take };
    },
    async 'Reload/handlers'() {
      if (!isAbout(changed, /^runtime\.(handlers|default_runtime)/)) return nothingToPrepare;
      const handlers = await parts.probe(next.runtime);
      return { ...nothingToPrepare, take: () => parts.handlers.become(handlers) };
    },
    'Reload/traces': async () => await parts.traces.prepare(next.tracing),
    // The last one: it may have to leave a place to see whether it can be served there otherwise.
    'Reload/metrics': async () => await parts.metrics.prepare(next.metrics),
  };
}

function isAbout(changed: readonly string[], pattern: RegExp): boolean {
  return changed.some((path) => pattern.test(path));
}

// The other parts shall not stay behind because of one.
async function orTell(log: Logger, work: () => Promise<void> | void, message: string): Promise<void> {
  try {
    await work();
  } catch (err) {
    log.error({ err: describe(err) }, message);
  }
}
