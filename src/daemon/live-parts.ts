import type { Logger } from '../base/log.ts';
import type { Cni } from '../cni/cni.ts';
import type { Config } from '../config/load-config.ts';
import type { SecurityParts } from '../pod/pod-deps.ts';
import type { Processes } from '../proc/processes.ts';
import type { Handlers } from '../runtime/handlers.ts';
import { openSecurityParts } from './security-parts.ts';
import type { SentTraces } from './sent-traces.ts';
import type { ServedMetrics } from './served-metrics.ts';

/** The parts of a berthd that follow a new configuration while pods run. */
export interface LiveParts {
  readonly cni: Pick<Cni, 'follow'>;
  readonly handlers: Pick<Handlers, 'become'>;
  /** Asks the runtimes of a configuration what they are. */
  readonly probe: (runtime: Config['runtime']) => Promise<Handlers>;
  /** What new containers get is read from it. */
  readonly security: { -readonly [K in keyof SecurityParts]: SecurityParts[K] };
  readonly processes: Processes;
  readonly metrics: Pick<ServedMetrics, 'serve'>;
  readonly traces: Pick<SentTraces, 'follow'>;
  readonly log: Logger;
}

/**
 * Has the parts follow `next`. First all that may turn out to be unusable, so that it is refused before anything has
 * changed; what was taken over before another part refused stays, and the next reload brings the rest. `changed` are the
 * keys that differ.
 */
export async function followConfig(
  parts: LiveParts,
  next: Config,
  changed: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { processes, log } = parts;
  const isAbout = (pattern: RegExp): boolean => changed.some((path) => pattern.test(path));
  const security = isAbout(/^runtime\./) ? openSecurityParts(next, { processes, log }) : undefined;
  const handlers = isAbout(/^runtime\.(handlers|default_runtime)/) ? await parts.probe(next.runtime) : undefined;
  await security?.apparmor.start(signal);
  await parts.traces.follow(next.tracing);
  await parts.metrics.serve(next.metrics);
  if (handlers) parts.handlers.become(handlers);
  // Labels that are given out must stay known: SELinux keeps its part.
  if (security) Object.assign(parts.security, { ...security, selinux: parts.security.selinux });
  if (isAbout(/^cni\./)) await parts.cni.follow(next.cni);
}
