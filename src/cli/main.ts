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
});
