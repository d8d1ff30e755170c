import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Both the daemon and this process look at their loops every 10 ms; a loop that is never late shows that. */
const SAMPLE_MS = 10;

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

/** How long a process's first thread has run, and has been ready to run without a processor, in milliseconds. */
export function firstThreadMs(pid: number): { readonly ran: number; readonly waited: number } {
  const [ran = 0, waited = 0] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ').map(Number);
  return { ran: ran / 1e6, waited: waited / 1e6 };
}

function late(ms: number): number {
  return Math.max(0, ms - SAMPLE_MS);
}
