import { accessSync, constants, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';

import { BerthError, describe, invalid } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import type { Handler, HandlerFeatures } from './handler.ts';
import { type HandlerTrial, HandlerTrials, type TrialCgroups } from './handler-trials.ts';
import { isRunc } from './runc-state.ts';
import { runtimeMessage } from './runtime-output.ts';

/** A configured handler: usable, or with the reason why it is not. */
export type HandlerStatus = { readonly name: string; readonly handler: Handler } | BrokenHandler;

type Trials = ReadonlyMap<string, HandlerTrial>;

/** The default handler, and the self-tests that it was chosen by. */
interface Choice {
  readonly defaultName: string;
  readonly trials: Trials;
}

interface BrokenHandler {
  readonly name: string;
  readonly error: string;
  /** One of those that nobody need configure, and its program is not there: whoever has one of them needs no other. */
  readonly isSpare?: boolean;
}

/** A handler as the configuration has it. */
export interface HandlerConfig {
  /** Absolute, or a name that is looked up in PATH. */
  readonly path: string;
  /** Empty: a folder of its own in the state folder. */
  readonly root: string;
  readonly annotations: readonly string[];
  readonly privilegedWithoutHostDevices: boolean;
}

/** What probing needs. */
export interface ProbeDeps {
  readonly handlers: Readonly<Record<string, HandlerConfig>>;
  /** A handler's name, or `auto`: the first of crun and runc that passes a self-test on this host. */
  readonly defaultRuntime: string;
  readonly stateDir: string;
  /** A static program that waits for ever: what the self-test runs. */
  readonly pausePath: string;
  readonly cgroups: TrialCgroups;
  readonly kernelHasRecursiveReadOnly: boolean;
  readonly kernelMapsIds: boolean;
  readonly processes: Pick<Processes, 'run' | 'start'>;
  readonly log: Logger;
}

const AUTO = 'auto';
const AUTO_ORDER: readonly string[] = ['crun', 'runc'];
const PROBE_TIMEOUT_MS = 10_000;
const NO_FEATURES: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false, checkpoint: false };
const COPIES_ITSELF = /^(runc|crun) version /;
const RUNC_CHECKPOINT = 'org.opencontainers.runc.checkpoint.enabled';

/** The configured handlers, as they were found at start or when the configuration changed. */
export class Handlers {
  #statuses: ReadonlyMap<string, HandlerStatus>;
  /** Those that the configuration has no more: containers may still run with them. */
  #retired: ReadonlyMap<string, HandlerStatus> = new Map();
  #default: string;
  #trials: Trials;

  private constructor(statuses: readonly HandlerStatus[], { defaultName, trials }: Choice) {
    this.#statuses = new Map(statuses.map((status) => [status.name, status]));
    this.#default = defaultName;
    this.#trials = trials;
  }

  /**
   * Asks all configured runtimes, side by side, what they are. A broken one does not stop the others; a default that
   * is not configured is an `invalid` error.
   */
  static async probe(deps: ProbeDeps, signal: AbortSignal): Promise<Handlers> {
    const configured = Object.entries(deps.handlers);
    if (deps.defaultRuntime !== AUTO && !Object.hasOwn(deps.handlers, deps.defaultRuntime)) {
      throw invalid(
        'runtime.default_runtime',
        `${deps.defaultRuntime} is not ${AUTO} or one of ${listOf(deps.handlers)}`,
      );
    }
    const statuses = await Promise.all(configured.map(([name, config]) => probeHandler(name, config, deps, signal)));
    for (const status of statuses) {
      if (!('error' in status)) continue;
      const level = status.isSpare === true && status.name !== deps.defaultRuntime ? 'info' : 'warn';
      deps.log[level]({ handler: status.name, reason: status.error }, 'runtime handler cannot be used');
    }
    const isOpen = deps.defaultRuntime === AUTO;
    const given = { defaultName: deps.defaultRuntime, trials: new Map() };
    return new Handlers(statuses, isOpen ? await chooseDefault(statuses, deps, signal) : given);
  }

  /**
   * The handler of that name, the default for ''. Throws `invalid` naming the known ones for an unknown name,
   * `precondition` with the reason for one that cannot be used.
   */
  get(name: string): Handler {
    const asked = name === '' ? this.#default : name;
    const status = this.#statuses.get(asked) ?? this.#retired.get(asked);
    if (!status) {
      if (name === '') throw new BerthError('precondition', 'no runtime handler is configured');
      throw invalid('runtime_handler', `${name} is not one of ${[...this.#statuses.keys()].join(', ')}`);
    }
    if ('error' in status) throw new BerthError('precondition', `runtime handler ${status.name}: ${status.error}`);
    return status.handler;
  }

  /** The handler of that name; undefined when it is not configured any more, or cannot be used. */
  find(name: string): Handler | undefined {
    const status = this.#statuses.get(name) ?? this.#retired.get(name);
    return status && 'handler' in status ? status.handler : undefined;
  }

  /** Has those of `next` from now on. What runs with one that is not among them keeps it until the next start. */
  become(next: Handlers): void {
    this.#retired = new Map([...this.#retired, ...this.#statuses]);
    this.#statuses = next.#statuses;
    this.#default = next.#default;
    this.#trials = next.#trials;
  }

  /** The name that '' stands for. */
  get defaultName(): string {
    return this.#default;
  }

  /** What came of the self-tests by which the default was chosen, by name; none where there was no choice. */
  get trials(): Trials {
    return this.#trials;
  }

  /** All handlers that can be used. */
  all(): Handler[] {
    return this.statuses().flatMap((status) => ('handler' in status ? [status.handler] : []));
  }

  /** All that are configured, the broken ones with their reason. */
  statuses(): HandlerStatus[] {
    return [...this.#statuses.values()];
  }
}

async function probeHandler(
  name: string,
  config: HandlerConfig,
  deps: ProbeDeps,
  signal: AbortSignal,
): Promise<HandlerStatus> {
  try {
    const path = findProgram(config.path);
    const ask = (arg: string) => deps.processes.run({ path, args: [arg], timeoutMs: PROBE_TIMEOUT_MS }, signal);
    const [version, features] = await Promise.all([ask('--version'), ask('features')]);
    if (version.exitCode !== 0) {
      const reason = runtimeMessage(version.stderr.toString()) || `exit code ${version.exitCode}`;
      return { name, error: `${path} --version: ${reason}` };
    }
    const firstLine = version.stdout.toString().split('\n', 1)[0]?.trim() ?? '';
    const handler: Handler = {
      name,
      path,
      root: config.root || join(deps.stateDir, 'runtime', name),
      version: firstLine,
      features:
        features.exitCode === 0
          ? parseFeatures(features.stdout.toString(), deps)
          : featuresOfOld(version.stdout.toString(), deps),
      isRunc: isRunc(firstLine, path),
      copiesItself: COPIES_ITSELF.test(firstLine),
      annotations: config.annotations,
      privilegedWithoutHostDevices: config.privilegedWithoutHostDevices,
    };
    return { name, handler };
  } catch (err) {
    signal.throwIfAborted();
    const isMissing = err instanceof BerthError && err.kind === 'notFound';
    return { name, error: describe(err), isSpare: isMissing && AUTO_ORDER.includes(name) && config.path === name };
  }
}

// From before the verb existed, crun could do more than nothing, and says some of it with its version.
function featuresOfOld(version: string, { kernelMapsIds }: Pick<ProbeDeps, 'kernelMapsIds'>): HandlerFeatures {
  if (!version.startsWith('crun ')) return NO_FEATURES;
  return { ...NO_FEATURES, userNamespaces: kernelMapsIds, checkpoint: /\+CRIU\b/.test(version) };
}

/** Reads `features` (features.md of the runtime specification). Text that is none means that nothing is known. */
export function parseFeatures(
  text: string,
  kernel: Pick<ProbeDeps, 'kernelHasRecursiveReadOnly' | 'kernelMapsIds'>,
): HandlerFeatures {
  let features: unknown;
  try {
    features = JSON.parse(text);
  } catch {
    return NO_FEATURES;
  }
  const options = at(features, 'mountOptions');
  const namespaces = at(at(features, 'linux'), 'namespaces');
  return {
    recursiveReadOnlyMounts: kernel.kernelHasRecursiveReadOnly && Array.isArray(options) && options.includes('rro'),
    // Joining one is enough: Berth maps the ids of layers and volumes itself.
    userNamespaces: kernel.kernelMapsIds && Array.isArray(namespaces) && namespaces.includes('user'),
    checkpoint: at(at(features, 'annotations'), RUNC_CHECKPOINT) === 'true',
  };
}

/** The absolute path of a program. Throws `notFound`. */
export function findProgram(name: string, path = process.env['PATH'] ?? ''): string {
  const candidates = isAbsolute(name)
    ? [name]
    : path.split(':').flatMap((folder) => (folder ? [join(folder, name)] : []));
  const found = candidates.find(isExecutable);
  if (found === undefined) throw new BerthError('notFound', `${name} is not installed, or not executable`);
  return found;
}

async function chooseDefault(
  statuses: readonly HandlerStatus[],
  deps: ProbeDeps,
  signal: AbortSignal,
): Promise<Choice> {
  const candidates = AUTO_ORDER.flatMap((name) => statuses.find((status) => status.name === name) ?? []);
  const usable = candidates.flatMap((status) => ('handler' in status ? [status.handler] : []));
  // One that works needs no proof when there is no other to take its place.
  const only = usable.length === 1 ? usable[0] : undefined;
  if (only) return { defaultName: only.name, trials: new Map() };
  const trials = await new HandlerTrials(deps).run(usable, signal);
  reportTrials(trials, deps.log);
  const passed = usable.find((handler) => trials.get(handler.name)?.passed);
  // Without any that works, calls fail with the first one's own words.
  const defaultName = passed?.name ?? usable[0]?.name ?? candidates[0]?.name ?? statuses[0]?.name ?? '';
  return { defaultName, trials };
}

function reportTrials(trials: Trials, log: Logger): void {
  for (const [name, trial] of trials) {
    if (!trial.passed) log.warn({ handler: name, reason: trial.reason }, 'runtime handler does not work on this host');
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function listOf(handlers: Readonly<Record<string, HandlerConfig>>): string {
  return Object.keys(handlers).join(', ') || 'none';
}

function at(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? Reflect.get(value, key) : undefined;
}
