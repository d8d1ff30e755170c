/** berth: the command line of berthd. */

import { Connection } from './connection.ts';
import { terminal } from './output.ts';
import { runCli } from './run-cli.ts';

// `berth pods | head` closes the pipe when it has seen enough.
process.stdout.on('error', (err: NodeJS.ErrnoException) => process.exit(err.code === 'EPIPE' ? 0 : 1));
process.exitCode = await runCli(process.argv.slice(2), {
  output: terminal,
  env: process.env,
  connect: (address) => new Connection(address),
  watchInterrupts,
  // All other commands do without what these need.
  checkNode: async (config) => await (await import('../node/check-node.ts')).checkNode(config),
  planOnNode: async (...asked) => await (await import('../node/plan-on-node.ts')).planOnNode(...asked),
  examineNode: async (config, fix) => await (await import('../node/examine-node.ts')).examineNode(config, fix),
});

/** Only the first: a person who presses Ctrl-C again means it. */
function watchInterrupts(): AbortSignal & Disposable {
  const stopped = new AbortController();
  const onSignal = (): void => {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    stopped.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const dispose = (): void => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  return Object.assign(stopped.signal, { [Symbol.dispose]: dispose });
}
