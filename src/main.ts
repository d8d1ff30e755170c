/** berthd: reads flags and configuration, starts the daemon, reloads on SIGHUP, stops on SIGTERM. */

import { writeFileSync } from 'node:fs';
import { access } from 'node:fs/promises';

import { describe } from './base/errors.ts';
import { readOwnVersion } from './base/own-version.ts';
import { ConfigError } from './config/config-problems.ts';
import { type Config, DEFAULT_FILE, loadConfig } from './config/load-config.ts';
import { ConfigReloader } from './daemon/config-reloader.ts';
import { Daemon } from './daemon/daemon.ts';
import { type Flags, parseFlags } from './daemon/flags.ts';
import { createLogger } from './daemon/logger.ts';
import { ServiceManager, takeServiceSettings } from './daemon/service-manager.ts';
import { keepMemoryPrivate } from './sys/private-memory.ts';
import { exitAtOnce, preferThreads } from './sys/process.ts';

const KEEP_ALIVE_MS = 60_000;
/** How long connections may take to end after everything is closed. */
const LAST_MOMENT_MS = 500;
/** Calls are short, and what makes a machine busy is often a pull or a pod that berthd itself has begun. */
const SERVING_NICE = -10;

function readConfig({ config, ...overrides }: Flags): Config {
  return loadConfig({ ...(config !== undefined ? { file: config } : {}), overrides });
}

/** In ps, top and the kernel's lines, where Node's first thread is called MainThread. */
function showOwnName(): void {
  try {
    writeFileSync('/proc/self/comm', 'berthd');
  } catch {
    // A name for people, and nothing else.
  }
}

async function main(): Promise<number> {
  const version = readOwnVersion();
  const flags = parseFlags(process.argv.slice(2), version);
  if (typeof flags === 'number') return flags;
  if (process.getuid?.() !== 0) {
    process.stderr.write('berthd: must run as root: it makes namespaces, mounts and cgroups\n');
    return 1;
  }
  let config: Config;
  try {
    config = readConfig(flags);
  } catch (err) {
    const problems = err instanceof ConfigError ? err.problems : [describe(err)];
    for (const problem of problems) process.stderr.write(`berthd: ${problem}\n`);
    return 1;
  }
  process.umask(0o022);
  showOwnName();
  keepMemoryPrivate();
  const log = createLogger(config.log.level, config.log.format);
  try {
    // Starts libuv's threads, as the first of such calls does.
    await access('/');
    preferThreads(SERVING_NICE);
  } catch (err) {
    log.debug({ err: describe(err) }, 'berthd has no priority over other programs');
  }
  const service = new ServiceManager(takeServiceSettings(process.env, process.pid), log);
  const daemon = new Daemon(config, version, log, service);
  // While nothing is served yet, a wait for a process or a pause between two tries does not keep node alive.
  const keepAlive = setInterval(() => {}, KEEP_ALIVE_MS);
  const stopped = Promise.withResolvers<string>();
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stopped.resolve(name));
  const reloader = new ConfigReloader({
    file: flags.config ?? DEFAULT_FILE,
    read: () => readConfig(flags),
    apply: (next) => daemon.reload(next),
    onEnd: (problem) => daemon.noteReload(problem),
    announce: (work) => service.reload(work),
    log,
  });
  process.on('SIGHUP', () => void reloader.reload());
  let isStarting = true;
  let wasStopped = false;
  void stopped.promise.then(() => {
    wasStopped = true;
    if (isStarting) daemon.abort();
  });
  try {
    await daemon.start();
    isStarting = false;
    reloader.watch(config);
  } catch (err) {
    clearInterval(keepAlive);
    if (wasStopped) {
      log.info({}, 'berthd was stopped before it served');
      return 0;
    }
    log.error({ err: describe(err) }, 'berthd cannot start');
    return 1;
  }
  log.info({ signal: await stopped.promise }, 'berthd stops; pods go on');
  await reloader.close();
  await daemon.close();
  clearInterval(keepAlive);
  return 0;
}

const exitCode = await main();
process.exitCode = exitCode;
// A client that does not react never hangs up, nor does a disk: either would hold this process for as long.
setTimeout(() => exitAtOnce(exitCode), LAST_MOMENT_MS).unref();
