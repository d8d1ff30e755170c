/**
 * Runs a command in a virtual machine that `npm run test:vm -- --hold` keeps, and ends with its exit code.
 *   node_modules/.bin/node test/vm/exec.ts SOCKET COMMAND [SECONDS]
 * Its standard input goes along when it is a file or a pipe, so `tar -c ... |` brings files in, and `> FILE` gets
 * them out.
 */

import { fstatSync, readFileSync } from 'node:fs';

import { Control } from './control.ts';

const [socket, command, seconds = '600'] = process.argv.slice(2);
if (socket === undefined || command === undefined) {
  process.stderr.write('Usage: node_modules/.bin/node test/vm/exec.ts SOCKET COMMAND [SECONDS] [< INPUT]\n');
  process.exit(2);
}
const stdin = fstatSync(0);
const input = stdin.isFile() || stdin.isFIFO() ? readFileSync(0) : Buffer.alloc(0);
using control = await Control.connect(socket);
const onOutput = (bytes: Buffer): boolean => process.stdout.write(bytes);
try {
  process.exitCode = (await control.run(command, { timeoutMs: Number(seconds) * 1000, input, onOutput })).status;
} catch (err) {
  // As after systemctl poweroff.
  process.stderr.write(`exec: ${err instanceof Error ? err.message : String(err)}\n`);
  process.exitCode = 1;
}
