import { delimiter } from 'node:path';

import * as v from 'valibot';

import { type BerthError, kindOf, wrap } from '../base/errors.ts';
import type { CommandResult } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import { CniError } from './cni-error.ts';
import type { CniVerb } from './cni-version.ts';
import { clip, type JsonObject } from './json.ts';
import { lateCloseEnv } from './late-close.ts';
import type { NetworkConfig, PluginConfig } from './network-config.ts';
import type { PluginBinaries } from './plugin-binaries.ts';

/** One run of one plugin. */
export interface PluginCall {
  readonly verb: CniVerb;
  readonly network: NetworkConfig;
  readonly plugin: PluginConfig;
  /** Goes to its standard input, with the plugin's own keys, the network's name and version. */
  readonly additions: JsonObject;
  /** The CNI_* variables of an attachment. */
  readonly env: Readonly<Record<string, string>>;
}

const OUTPUT_LIMIT_BYTES = 1024 * 1024;
const STDERR_TAIL_CHARS = 500;
/** The caller's signal ends it earlier; this is for a signal without a deadline. */
const LONGEST_MS = 120_000;
/**
 * How long an ADD or DEL that nobody waits for any more may go on: what it leaves when it is killed in the middle, no later
 * DEL finds. host-local makes the file of an address first, and writes into it then whose it is. bridge removes the
 * interface first, and then the packet rules of the addresses that it had.
 */
export const LET_FINISH_MS = 3000;
/**
 * Plugins give way to the OCI runtime: while pods come and go, most of what they do is for those that go, and for those
 * that are yet to come. With more than this an ADD takes so long that pods wait for it (bench/NOTES.md). Who asks STATUS
 * has little patience, and all others wait for a GC: these give way to nobody.
 */
const SESSION_NICE: Readonly<Partial<Record<CniVerb, number>>> = Object.freeze({ ADD: 5, DEL: 10 });
const CHANGING: readonly CniVerb[] = ['ADD', 'DEL'];
const FALLBACK_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const errorSchema = v.object({
  code: v.pipe(v.number(), v.integer()),
  msg: v.nullish(v.string(), ''),
  details: v.nullish(v.string(), ''),
});

/** Runs plugins as the CNI specification (1.1, section 2) says, and turns what goes wrong into a CniError. */
export class PluginRunner {
  readonly #processes: Pick<Processes, 'run'>;
  readonly #binaries: PluginBinaries;
  readonly #lateClose: string | undefined;
  readonly #path: string;

  constructor({
    processes,
    binaries,
    lateClose,
  }: {
    processes: Pick<Processes, 'run'>;
    binaries: PluginBinaries;
    /** The library of native/late-close.c, if plugins are to have it. */
    lateClose: string | undefined;
  }) {
    this.#processes = processes;
    this.#binaries = binaries;
    this.#lateClose = lateClose;
    this.#path = process.env['PATH'] || FALLBACK_PATH;
  }

  /**
   * Runs a plugin and returns what it printed. Throws a CniError when it fails, hangs or is missing, and the signal's
   * reason, wrapped, when the caller gave up: up to three seconds later with an ADD or DEL, when it has come to its end.
   */
  async run(call: PluginCall, signal: AbortSignal): Promise<string> {
    const path = this.#binaries.known(call.plugin.type) ?? (await this.#binaries.find(call.plugin.type));
    if (path === undefined) throw this.#missing(call);
    const result = await this.#execute(call, path, signal);
    if (result.truncated && result.stdout.length >= OUTPUT_LIMIT_BYTES) {
      throw new CniError({
        ...facts(call),
        problem: `it printed more than ${OUTPUT_LIMIT_BYTES} bytes${stderrTail(result)}`,
      });
    }
    if (result.exitCode !== 0) throw failure(call, result);
    return result.stdout.toString('utf8');
  }

  async #execute(call: PluginCall, path: string, signal: AbortSignal): Promise<CommandResult> {
    const { verb, network, plugin, additions, env } = call;
    const { capabilities: _consumed, ...body } = plugin.body;
    const request = { ...body, name: network.name, cniVersion: network.cniVersion, ...additions };
    try {
      return await this.#processes.run(
        {
          path,
          args: [],
          env: { ...this.#surroundings(call), CNI_COMMAND: verb, ...env },
          stdin: JSON.stringify(request),
          timeoutMs: LONGEST_MS,
          errand: { of: 'network', plugin: plugin.type, verb },
          outputLimitBytes: OUTPUT_LIMIT_BYTES,
          endAtLimit: true,
          // A plugin that hangs often does so in a child: its address management, or iptables.
          newSession: true,
          sessionNice: SESSION_NICE[verb],
          letFinishMs: CHANGING.includes(verb) ? LET_FINISH_MS : 0,
        },
        signal,
      );
    } catch (cause) {
      if (kindOf(cause) !== 'notFound') throw notRun(call, cause, signal);
      this.#binaries.reset();
      throw this.#missing(call, cause);
    }
  }

  #surroundings({ verb, plugin }: PluginCall): Record<string, string> {
    const preloaded = verb === 'DEL' ? lateCloseEnv(this.#lateClose, plugin.type) : {};
    return { PATH: this.#path, CNI_PATH: this.#binaries.binDirs.join(delimiter), ...preloaded };
  }

  #missing(call: PluginCall, cause?: unknown): CniError {
    const problem = `there is no such program in ${this.#binaries.binDirs.join(', ')}`;
    return new CniError({ ...facts(call), isProgramMissing: true, problem, cause });
  }
}

/** What a plugin printed that cannot be used, as an error. */
export function unusableOutput(call: PluginCall, cause: unknown): CniError {
  return new CniError({ ...facts(call), problem: 'it ended well, but its output is no valid result', cause });
}

function facts({ verb, network, plugin }: PluginCall): { verb: CniVerb; network: string; plugin: string } {
  return { verb, network: network.name, plugin: plugin.type };
}

function notRun(call: PluginCall, cause: unknown, signal: AbortSignal): BerthError {
  const kind = kindOf(cause);
  if (kind === 'deadline') return new CniError({ ...facts(call), kind, problem: 'it did not end in time', cause });
  if (signal.aborted) return wrap(`CNI ${call.verb} on network "${call.network.name}"`, cause);
  return new CniError({ ...facts(call), kind, problem: 'it could not be run', cause });
}

function failure(call: PluginCall, result: CommandResult): CniError {
  const error = parseError(result.stdout);
  if (error) {
    const problem = `code ${error.code}: ${clip(error.msg) || 'no message'}`;
    return new CniError({
      ...facts(call),
      problem: `${problem}${stderrTail(result)}`,
      code: error.code,
      details: clip(error.details),
    });
  }
  const how = result.signal ? `was ended by ${result.signal}` : `exited with ${result.exitCode}`;
  const printed = clip(result.stdout.toString('utf8'));
  const said = printed === '' ? 'without a word' : `without an error object, but: ${printed}`;
  return new CniError({ ...facts(call), problem: `it ${how} ${said}${stderrTail(result)}` });
}

function parseError(stdout: Buffer): v.InferOutput<typeof errorSchema> | undefined {
  try {
    return v.parse(errorSchema, JSON.parse(stdout.toString('utf8')));
  } catch {
    return undefined;
  }
}

/** The end is where a program says why it gave up. */
function stderrTail({ stderr }: CommandResult): string {
  const text = stderr.toString('utf8').replace(/\s+/g, ' ').trim();
  if (text === '') return '';
  return `; stderr: ${text.length > STDERR_TAIL_CHARS ? `...${text.slice(-STDERR_TAIL_CHARS)}` : text}`;
}
