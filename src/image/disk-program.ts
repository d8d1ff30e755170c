/**
 * The process for work on the disk: takes orders from its standard input, has threads do them, and answers on its
 * standard output. It ends with its input, that is with berthd.
 */

import { closeSync, constants, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';

import { BerthError, describe, kindOf } from '../base/errors.ts';
import { readOwnVersion } from '../base/own-version.ts';
import { BlobArrival } from './blob-arrival.ts';
import {
  type DiskOrder,
  type DiskReply,
  encodeFrame,
  FrameReader,
  type FromDisk,
  type ToDisk,
} from './disk-channel.ts';
import type { DiskJobs } from './disk-jobs.ts';
import { DiskThreads } from './disk-threads.ts';

/** Programs that start pods come first when there are fewer processors than work. No lock is shared with them. */
const NICE = 10;

interface Job {
  readonly stop: AbortController;
  readonly arrival: BlobArrival;
}

const threads = new DiskThreads();
const jobs = new Map<number, Job>();

async function perform(order: DiskOrder, { stop, arrival }: Job): Promise<DiskJobs[keyof DiskJobs]['answer']> {
  const { job, request, follows, descriptor } = order;
  if (job === 'unpack' && follows) {
    const { blob, ...rest } = request as DiskJobs['unpack']['request'];
    return await threads.ask(job, { ...rest, blob: { ...blob, arrival: arrival.shared } }, stop.signal);
  }
  if (job !== 'archive') return await threads.ask(job, request as DiskJobs[typeof job]['request'], stop.signal);
  if (descriptor === undefined) throw new BerthError('internal', `${job}: there is nothing to write to`);
  const fd = openSync(descriptor, constants.O_WRONLY);
  try {
    return await threads.ask(job, { ...(request as DiskJobs['archive']['request']), fd }, stop.signal);
  } finally {
    closeSync(fd);
  }
}

function take(message: ToDisk): void {
  if ('cancel' in message) {
    jobs.get(message.cancel)?.stop.abort();
  } else if ('arrived' in message) {
    jobs.get(message.id)?.arrival.take(message.arrived);
  } else {
    const { order } = message;
    const job = { stop: new AbortController(), arrival: new BlobArrival() };
    jobs.set(order.id, job);
    perform(order, job).then(
      (answer) => reply({ id: order.id, answer: { answer } }),
      (err: unknown) => reply({ id: order.id, answer: { kind: kindOf(err), message: describe(err) } }),
    );
  }
}

function reply(message: DiskReply): void {
  jobs.delete(message.id);
  say(message);
}

function say(message: FromDisk): void {
  process.stdout.write(encodeFrame(message));
}

/** Nobody wants what is half done; the next berthd finds it and takes it away. */
function end(): void {
  if (jobs.size > 0) process.kill(process.pid, 'SIGKILL');
  process.exit();
}

/** A machine that has no memory left had better lose this process than berthd, whose score it has inherited. */
function letGoFirst(): void {
  const file = '/proc/self/oom_score_adj';
  if (Number(readFileSync(file, 'latin1')) < 0) writeFileSync(file, '0');
}

process.title = 'berth-disk';
process.umask(0o022);
// Those of V8 are there already; the rest take after the first. Only a privileged process may come before what it was.
for (const tid of readdirSync('/proc/self/task').map(Number)) if (getPriority(tid) < NICE) setPriority(tid, NICE);
letGoFirst();
const messages = new FrameReader<ToDisk>();
process.stdout.on('error', end);
process.stdin.on('data', (part: Buffer) => messages.add(part).forEach(take));
process.stdin.on('end', end);
say({ version: readOwnVersion() });
