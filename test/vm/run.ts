/** `npm run test:vm`: makes the disks, boots the machine, runs the jobs in it, and keeps what they and it have said. */

import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { findSuite } from '../critest/suite.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { findKubelet } from '../kubelet/find-kubelet.ts';
import { findBaseImage } from './base-image.ts';
import { makeCheckoutDisk } from './checkout-disk.ts';
import { INSTALL, type Job, RESULTS, shellCommand } from './jobs.ts';
import { controlSocket, lastLines, Machine } from './machine.ts';
import { type Options, parseOptions, USAGE } from './options.ts';
import { makePackages } from './packages.ts';

/** What became of a job. */
interface Outcome {
  readonly name: string;
  readonly result: 'pass' | 'FAIL' | 'skip';
  /** Why it failed, or was not run. */
  readonly problem: string;
  readonly seconds: number;
}

const IMAGE = 'example.com/berth-vm/busybox:1';
const QUICK_TIMEOUT_MS = 120_000;
const SHOWN_LINES = 150;
/** Files, and what the machine is asked for them at its end. */
const LAST_WORDS = {
  'dmesg.txt': 'dmesg',
  // Of all boots; what the machine sends while it runs lacks the end of each.
  'journal-of-all-boots.log': 'journalctl --no-pager --output=short-precise',
  'units.txt': 'systemctl --no-pager --full status berthd; systemctl --no-pager list-units --failed',
  'cgroups.txt': 'systemd-cgls --no-pager --full',
};
/** What grows while the machine runs. */
const KEPT_BY_MACHINE = ['journal.log', 'console.log'];
const startedAt = performance.now();

function say(text: string): void {
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  process.stdout.write(`[${String(seconds).padStart(4)} s] ${text}\n`);
}

async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (err) {
    process.stderr.write(`test:vm: ${err instanceof Error ? err.message : String(err)}\n${USAGE}`);
    return 2;
  }
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  // The socket's path must be short, and the disks are large: neither belongs beside the results.
  const work = mkdtempSync(join(tmpdir(), 'berth-vm-'));
  process.once('exit', () => rmSync(work, { recursive: true, force: true }));
  // A run that is stopped, by a limit of continuous integration for one, tells how far it came.
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.once(name, () => {
      say(`stopped by ${name}`);
      tellEnds(options.results);
      process.exit(1);
    });
  }
  return await runIn(work, options);
}

async function runIn(work: string, options: Options): Promise<number> {
  rmSync(options.results, { recursive: true, force: true });
  mkdirSync(options.results, { recursive: true });
  const checkout = join(work, 'checkout.ext4');
  // Both at the same time: the first needs the network and one processor for minutes.
  const [base, skipped] = await Promise.all([
    findBaseImage(options.rebuild, say),
    prepareCheckout(checkout, work, options),
  ]);
  say('booting');
  const { accelerator, memoryMib, results } = options;
  await using machine = await Machine.boot({ ...base, checkout, folder: work, logs: results, accelerator, memoryMib });
  say(
    `it is up: ${(await machine.output('uname -sr; systemctl --version | head -n 1', QUICK_TIMEOUT_MS)).trim().replace('\n', ', ')}`,
  );
  if (options.hold) return await hold(machine, work, results);
  const outcomes: Outcome[] = [...skipped];
  const isSkipped = (job: Job): boolean => skipped.some(({ name }) => name === job.name);
  try {
    for (const job of [INSTALL, ...options.jobs].filter((job) => !isSkipped(job))) {
      const outcome = await runJob(machine, job, options.results);
      outcomes.push(outcome);
      if (job === INSTALL && outcome.result !== 'pass') break;
    }
  } finally {
    await collect(machine, options.results).catch((err: unknown) =>
      say(`results could not be fetched: ${String(err)}`),
    );
  }
  await machine.powerOff();
  say('it is off');
  return summarize(outcomes, options);
}

/** Makes the disk with the checkout. Returns the jobs that cannot be run. */
async function prepareCheckout(disk: string, work: string, options: Options): Promise<Outcome[]> {
  const { extra, skipped } = await prepare(work, options);
  say('making the disk with the checkout');
  await makeCheckoutDisk(disk, work, extra);
  return skipped;
}

/** What the jobs need besides the checkout: where it shall be on its disk, and where it is now. */
async function prepare(
  work: string,
  { jobs, runtime }: Options,
): Promise<{ extra: Map<string, string>; skipped: Outcome[] }> {
  say('making the packages');
  const extra = new Map(makePackages(work));
  const layout = join(work, 'layout');
  await buildBusyboxLayout(layout, { tag: IMAGE });
  const settings = join(work, 'settings');
  writeFileSync(settings, `RUNTIME='${runtime ?? ''}'\nIMAGE='${IMAGE}'\n`);
  extra.set('vm/layout', layout).set('vm/settings', settings);
  const skipped: Outcome[] = [];
  /** What a job needs that is not part of the checkout. */
  const bring = async (job: string, find: () => Promise<{ program: string } | { missing: string }>): Promise<void> => {
    if (!jobs.some(({ name }) => name === job)) return;
    const found = await find();
    if ('program' in found) extra.set(`vm/${job}`, found.program);
    else skipped.push({ name: job, result: 'skip', problem: found.missing, seconds: 0 });
  };
  await bring('critest', async () => {
    const suite = await findSuite();
    return 'missing' in suite ? suite : { program: suite.critest };
  });
  await bring('kubelet', async () => await findKubelet(undefined));
  return { extra, skipped };
}

/** Runs all phases of a job; its output goes to a file, and is shown when it fails. */
async function runJob(machine: Machine, { name, phases, minutes }: Job, results: string): Promise<Outcome> {
  say(`${name}: begins`);
  const beganAt = performance.now();
  const logFile = join(results, `${name}.log`);
  const log = openSync(logFile, 'w');
  let problem = '';
  try {
    for (const [index, phase] of phases.entries()) {
      if (index > 0) await machine.reboot();
      const onOutput = (bytes: Buffer): number => writeSync(log, bytes);
      const { status } = await machine.run(shellCommand(phase), { timeoutMs: minutes * 60_000, onOutput });
      if (status !== 0)
        problem = status === 124 || status === 137 ? `not within ${minutes} minutes` : `exit code ${status}`;
      if (problem !== '') break;
    }
  } catch (err) {
    problem = err instanceof Error ? err.message : String(err);
  } finally {
    closeSync(log);
  }
  const seconds = Math.round((performance.now() - beganAt) / 1000);
  say(`${name}: ${problem === '' ? 'passed' : `FAILED, ${problem}`} (${seconds} s)`);
  if (problem !== '') process.stdout.write(`${lastLines(readFileSync(logFile, 'utf8'), SHOWN_LINES)}\n`);
  return { name, result: problem === '' ? 'pass' : 'FAIL', problem, seconds };
}

/** The reports that jobs left, and what the kernel and systemd say at the end. */
async function collect(machine: Machine, results: string): Promise<void> {
  const timeoutMs = QUICK_TIMEOUT_MS;
  const archive = await machine.run(`mkdir -p ${RESULTS} && tar -c -C ${RESULTS} .`, { timeoutMs });
  execFileSync('tar', ['-x', '--no-same-owner', '-C', results], { input: archive.output, timeout: timeoutMs });
  for (const [file, command] of Object.entries(LAST_WORDS)) {
    const { output } = await machine.run(command, { timeoutMs });
    writeFileSync(join(results, file), output);
  }
}

/** The ends of what was said last: by the job that ran, if any, by the machine's journal, and by its console. */
function tellEnds(results: string): void {
  const logs = readdirSync(results).filter((name) => name.endsWith('.log') && !KEPT_BY_MACHINE.includes(name));
  const times = new Map(logs.map((name) => [name, statSync(join(results, name)).mtimeMs]));
  const last = logs.toSorted((one, other) => (times.get(other) ?? 0) - (times.get(one) ?? 0)).slice(0, 1);
  for (const name of [...last, ...KEPT_BY_MACHINE]) tellEnd(results, name);
}

function tellEnd(results: string, name: string): void {
  const path = join(results, name);
  if (existsSync(path)) process.stdout.write(`--- ${name} ends with\n${lastLines(readFileSync(path, 'utf8'))}\n`);
}

/** Installs, and leaves the machine to test/vm/exec.ts until it is powered off. */
async function hold(machine: Machine, work: string, results: string): Promise<number> {
  const { result } = await runJob(machine, INSTALL, results);
  machine.disconnect();
  const socket = controlSocket(work);
  writeFileSync(join(results, 'socket'), `${socket}\n`);
  say(`it waits: node_modules/.bin/node test/vm/exec.ts ${socket} 'systemctl status berthd'`);
  say('its end: systemctl poweroff, in the same way');
  await machine.ended();
  return result === 'pass' ? 0 : 1;
}

function summarize(outcomes: readonly Outcome[], { jobs, results }: Options): number {
  const count = (wanted: Outcome['result']): number => outcomes.filter(({ result }) => result === wanted).length;
  // What came after a failed installation.
  const notRun = jobs.length + 1 - outcomes.length;
  const lines = outcomes.map(({ name, result, problem, seconds }) =>
    `${result}  ${name.padEnd(12)} ${String(seconds).padStart(5)} s  ${problem.split('\n')[0]}`.trimEnd(),
  );
  const counts = `${count('pass')} passed, ${count('FAIL')} failed, ${count('skip') + notRun} not run`;
  const text = `${[...lines, counts].join('\n')}\n`;
  writeFileSync(join(results, 'summary.txt'), text);
  if (count('FAIL') > 0) tellEnd(results, 'journal-of-all-boots.log');
  process.stdout.write(text);
  say(`all that was said is in ${results}`);
  return count('FAIL') + notRun === 0 ? 0 : 1;
}

process.exitCode = await main();
