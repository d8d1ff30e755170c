import { open, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { ContainerState, ContainerStatusRequest, RuntimeServiceService } from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import type { Output } from '../output.ts';
import { getContainer, type Session } from '../session.ts';

const CHUNK_BYTES = 64 * 1024;
const POLL_MS = 100;

/**
 * `berth logs CONTAINER`: what it has written; with `follow` also what it writes until it ends. For programs a line of
 * JSON for each of the log's.
 */
export async function showLogs(
  session: Session,
  text: string,
  { follow, timestamps }: { follow: boolean; timestamps: boolean },
): Promise<void> {
  const { id } = await getContainer(session, text);
  const status = async () => {
    const answer = await session.connection.call(
      RuntimeServiceService.containerStatus,
      ContainerStatusRequest.create({ containerId: id }),
    );
    return answer.status;
  };
  const logPath = (await status())?.logPath ?? '';
  if (logPath === '') throw new CliError(`container ${text} has no log`, 'its pod was made without a log directory');
  const ended = async (): Promise<boolean> => !follow || (await status())?.state !== ContainerState.CONTAINER_RUNNING;
  await followLog(session.output, logPath, { timestamps, json: session.json, ended });
}

/**
 * Prints a CRI log from its beginning until `ended` says that nothing more will come. A file that is rotated away is
 * read to its end, then its successor from the beginning.
 */
export async function followLog(
  output: Output,
  path: string,
  { ended, ...how }: { timestamps: boolean; json: boolean; ended: () => Promise<boolean> },
): Promise<void> {
  const printer = new LogPrinter(output, how);
  let file = await openLog(path);
  try {
    for (;;) {
      // Asked before reading: what was written before the end is then still read.
      const isLast = await ended();
      await printer.read(file);
      const successor = await findSuccessor(path, file);
      if (successor) {
        await printer.read(file);
        await file.close();
        file = successor;
      } else if (isLast) {
        return;
      } else {
        await delay(POLL_MS);
      }
    }
  } finally {
    await file.close();
  }
}

type LogFile = Awaited<ReturnType<typeof open>>;

async function openLog(path: string): Promise<LogFile> {
  try {
    return await open(path, 'r');
  } catch (err) {
    throw unreadable(path, err);
  }
}

function unreadable(path: string, err: unknown): CliError {
  const why = err instanceof Error ? err.message : String(err);
  const isGone = err instanceof Error && 'code' in err && err.code === 'ENOENT';
  const hint = isGone ? `it is not on this machine, or was rotated or removed: see ${dirname(path)}` : 'run it as root';
  return new CliError(`cannot read ${path}: ${why}`, hint);
}

async function findSuccessor(path: string, file: LogFile): Promise<LogFile | undefined> {
  const [own, current] = await Promise.all([file.stat(), stat(path).catch(() => undefined)]);
  return current && current.ino !== own.ino ? await openLog(path) : undefined;
}

/** Turns lines `<time> <stream> <P|F> <text>` into what the program wrote. */
class LogPrinter {
  readonly #output: Output;
  readonly #timestamps: boolean;
  readonly #json: boolean;
  #rest = '';
  readonly #decoder = new TextDecoder();
  /** The streams whose last part did not end its line. */
  readonly #open = new Set<string>();

  constructor(output: Output, { timestamps, json }: { timestamps: boolean; json: boolean }) {
    this.#output = output;
    this.#timestamps = timestamps;
    this.#json = json;
  }

  async read(file: LogFile): Promise<void> {
    const buffer = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES);
      if (bytesRead === 0) return;
      this.#rest += this.#decoder.decode(buffer.subarray(0, bytesRead), { stream: true });
      const lines = this.#rest.split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) this.#print(line);
    }
  }

  #print(line: string): void {
    const [, time = '', stream = 'stdout', tags = 'F', text = line] =
      /^(\S+) (stdout|stderr) (\S+) (.*)$/s.exec(line) ?? [];
    const isWhole = tags.split(':', 1)[0] !== 'P';
    if (this.#json) {
      this.#output.out(`${JSON.stringify({ time, stream, text, isWhole })}\n`);
      return;
    }
    const prefix = this.#timestamps && !this.#open.has(stream) && time !== '' ? `${time} ` : '';
    const written = `${prefix}${text}${isWhole ? '\n' : ''}`;
    if (stream === 'stderr') this.#output.err(written);
    else this.#output.out(written);
    if (isWhole) this.#open.delete(stream);
    else this.#open.add(stream);
  }
}
