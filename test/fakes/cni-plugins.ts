import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

import { BerthError } from '../../src/base/errors.ts';
import type { Command, CommandResult } from '../../src/proc/command.ts';

/** One run of a plugin, as it saw it. */
export interface PluginRun {
  readonly plugin: string;
  readonly verb: string;
  readonly env: Readonly<Record<string, string>>;
  readonly request: Readonly<Record<string, unknown>>;
  readonly signal: AbortSignal;
}

/** What a plugin's run ends with; what is left out is 0 and empty. */
export interface PluginEnd {
  readonly exitCode?: number;
  readonly killedBy?: string;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly truncated?: boolean;
}

/** Plugins that exist as files, and whose behaviour a test decides: by default each ADD gives one address. */
export class FakePlugins {
  readonly runs: PluginRun[] = [];
  /** Set it to make a plugin behave otherwise; undefined: as by default. */
  behave: (run: PluginRun) => PluginEnd | Promise<PluginEnd> | undefined = () => undefined;

  /** Makes the files that a search for programs finds. */
  install(binDir: string, ...plugins: readonly string[]): void {
    mkdirSync(binDir, { recursive: true });
    for (const plugin of plugins) {
      writeFileSync(join(binDir, plugin), '');
      chmodSync(join(binDir, plugin), 0o755);
    }
  }

  /** `<verb> <plugin>` of each run, in order. */
  calls(): string[] {
    return this.runs.map(({ verb, plugin }) => `${verb} ${plugin}`);
  }

  /** In place of Processes.run. */
  async run(cmd: Command, signal: AbortSignal): Promise<CommandResult> {
    signal.throwIfAborted();
    const env = cmd.env ?? {};
    const request: unknown = JSON.parse(String(cmd.stdin));
    if (typeof request !== 'object' || request === null) throw new Error('the request is no object');
    const run: PluginRun = {
      plugin: basename(cmd.path),
      verb: env['CNI_COMMAND'] ?? '',
      env,
      request: { ...request },
      signal,
    };
    this.runs.push(run);
    const {
      exitCode = 0,
      killedBy,
      stdout = '',
      stderr = '',
      truncated = false,
    } = (await this.behave(run)) ?? answer(run);
    return {
      exitCode,
      signal: killedBy,
      stdout: Buffer.from(stdout),
      stderr: Buffer.from(stderr),
      truncated,
      durationMs: 1,
    };
  }

  /** As Processes.exitOf: there are no processes. */
  async exitOf(): Promise<void> {}
}

/** Never ends by itself: as Processes.run, throws the signal's reason when it aborts. */
export async function hang({ signal }: PluginRun): Promise<PluginEnd> {
  const { promise, reject } = Promise.withResolvers<PluginEnd>();
  signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  // A test that waits in vain shall fail, not hang.
  const timer = setTimeout(() => reject(new BerthError('internal', 'nobody ended the plugin that hangs')), 20_000);
  return promise.finally(() => clearTimeout(timer));
}

/** A plugin's error, as the specification has it. */
export function pluginError(code: number, msg: string, details = ''): PluginEnd {
  return { exitCode: 1, stdout: JSON.stringify({ cniVersion: '1.0.0', code, msg, details }) };
}

function answer({ verb, request, env }: PluginRun): PluginEnd {
  if (verb !== 'ADD') return {};
  const result = request['prevResult'] ?? {
    cniVersion: request['cniVersion'],
    interfaces: [{ name: 'host0' }, { name: env['CNI_IFNAME'], mac: '02:00:00:00:00:01', sandbox: env['CNI_NETNS'] }],
    ips: [{ address: '10.9.0.2/24', gateway: '10.9.0.1', interface: 1 }],
  };
  return { stdout: JSON.stringify(result) };
}
