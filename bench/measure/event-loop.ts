import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

/** Both the daemon and this process look at their loops every 10 ms; a loop that is never late shows that. */
const SAMPLE_MS = 10;
const SETTLE_MS = 500;

/** How late an event loop was. */
export interface LoopDelay {
  readonly maxMs: number;
  readonly p99Ms: number;
}

/**
 * How late the loop of a berthd was since this was asked last, by its own metrics. Scraping them takes it some
 * milliseconds, which belong to the next period.
 */
export async function daemonLoopDelay(metrics: string): Promise<LoopDelay> {
  const text = await (await fetch(metrics)).text();
  const lateMs = (name: string): number => {
    const match = new RegExp(`^berth_nodejs_eventloop_lag_${name}_seconds ([\\d.e+-]+)$`, 'm').exec(text);
    return late(Number(match?.[1] ?? Number.NaN) * 1000);
  };
  return { maxMs: lateMs('max'), p99Ms: lateMs('p99') };
}

/** The loop of this process, which has next to nothing to do: as late as it is, any is on this machine. */
export class OwnLoop implements Disposable {
  readonly #histogram = monitorEventLoopDelay({ resolution: SAMPLE_MS });

  constructor() {
    this.#histogram.enable();
  }

  delay(): LoopDelay {
    return { maxMs: late(this.#histogram.max / 1e6), p99Ms: late(this.#histogram.percentile(99) / 1e6) };
  }

  [Symbol.dispose](): void {
    this.#histogram.disable();
  }
}

/** What loop-probe.ts finds in a berthd that is started with `env`. */
export class LoopProbe {
  readonly #file: string;
  readonly env: Readonly<Record<string, string>>;

  /** `folder` must be one that the berthd sees. */
  constructor(folder: string) {
    const program = join(folder, 'loop-probe.mjs');
    // As it is, Node would have to load what strips types into the berthd that is measured.
    writeFileSync(program, stripTypeScriptTypes(readFileSync(new URL('loop-probe.ts', import.meta.url), 'utf8')));
    this.#file = join(folder, 'loop-probe.txt');
    this.env = { NODE_OPTIONS: `--import=${pathToFileURL(program).href}`, BENCH_LOOP_PROBE: this.#file };
  }

  /**
   * The longest time that the loop was held up between two moments (milliseconds since the epoch) by what its thread did
   * or slept through, without the time that the thread waited for a processor.
   */
  longestHoldUpMs(sinceMs: number, untilMs: number): number {
    return this.longest(sinceMs, untilMs).holdUpMs;
  }

  /** The same, the longest that the loop was late for any reason, and the longest that its thread ran meanwhile. */
  longest(
    sinceMs: number,
    untilMs: number,
  ): { readonly holdUpMs: number; readonly lateMs: number; readonly ranMs: number } {
    const text = existsSync(this.#file) ? readFileSync(this.#file, 'utf8') : '';
    const delays = text.split('\n').flatMap((line) => {
      const [atMs = 0, lateMs = 0, waitedMs = 0, ranMs = 0] = line.split(' ').map(Number);
      return atMs >= sinceMs && atMs <= untilMs ? [{ holdUpMs: lateMs - waitedMs, lateMs, ranMs }] : [];
    });
    return {
      holdUpMs: Math.max(0, ...delays.map(({ holdUpMs }) => holdUpMs)),
      lateMs: Math.max(0, ...delays.map(({ lateMs }) => lateMs)),
      ranMs: Math.max(0, ...delays.map(({ ranMs }) => ranMs)),
    };
  }

  /** Waits until what happened by now is written down. */
  async settle(): Promise<void> {
    await setTimeout(SETTLE_MS);
  }
}

/** How long a process's first thread has run, and has been ready to run without a processor, in milliseconds. */
export function firstThreadMs(pid: number): { readonly ran: number; readonly waited: number } {
  const [ran = 0, waited = 0] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ').map(Number);
  return { ran: ran / 1e6, waited: waited / 1e6 };
}

function late(ms: number): number {
  return Math.max(0, ms - SAMPLE_MS);
}
