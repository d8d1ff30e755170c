/** `npm run test:kubelet`: a real kubelet runs static pods on Berth. */

import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { describe } from '../../src/base/errors.ts';
import { patient } from '../harness/patience.ts';
import { findKubelet } from './find-kubelet.ts';
import { OUTPUT_VARIABLE } from './kubelet-lab.ts';
import { PrivateMachine } from './private-machine.ts';

const USAGE = `Usage: npm run test:kubelet -- [OPTION]... [SCENE]...
Runs a kubelet, the one that $KUBELET_BIN names (1.30 or newer), without an API server on static pods against Berth.
A SCENE is a part of a name of test/kubelet/*.scene.ts; all if none is given.

  --build VERSION     build that version, such as 1.36.3, with Go instead (once; it takes long)
  --name REGEX        only tests that match
  --output DIR        keep all logs there
`;
/** Exit code where no kubelet can be had: neither good nor bad. */
const MISSING = 77;
const SCENE_TIMEOUT_MS = 900_000;

async function main(): Promise<number> {
  const { values, positionals } = readOptions();
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const kubelet = await findKubelet(values.build);
  if ('missing' in kubelet) {
    say(`NOT RUN: ${kubelet.missing}`);
    return MISSING;
  }
  say(`kubelet ${kubelet.version}`);
  const scenes = readdirSync(import.meta.dirname).filter((name) => name.endsWith('.scene.ts'));
  const wanted = scenes.filter((name) => positionals.length === 0 || positionals.some((part) => name.includes(part)));
  if (wanted.length === 0) throw new Error(`no scene is named so; there are: ${scenes.join(', ')}`);
  using machine = new PrivateMachine();
  const files = wanted.sort().map((name) => join(import.meta.dirname, name));
  const words = [
    '--test',
    '--test-concurrency=1',
    `--test-timeout=${patient(SCENE_TIMEOUT_MS)}`,
    '--test-reporter=spec',
  ];
  const only = values.name === undefined ? [] : [`--test-name-pattern=${values.name}`];
  if (values.output !== undefined) mkdirSync(values.output, { recursive: true });
  const output = values.output === undefined ? {} : { [OUTPUT_VARIABLE]: resolve(values.output) };
  const [program, ...args] = machine.command([process.execPath, ...words, ...only, ...files]);
  const child = spawn(program, args, {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...output, KUBELET_BIN: kubelet.program },
  });
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => child.kill(name));
  const ended = Promise.withResolvers<number>();
  child.once('error', ended.reject).once('exit', (code) => ended.resolve(code ?? 1));
  return await ended.promise;
}

function readOptions() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        build: { type: 'string' },
        name: { type: 'string' },
        output: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (err) {
    process.stderr.write(USAGE);
    throw err;
  }
}

function say(text: string): void {
  process.stderr.write(`test:kubelet: ${text}\n`);
}

try {
  process.exitCode = await main();
} catch (err) {
  say(describe(err));
  process.exitCode = 2;
}
