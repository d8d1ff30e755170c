import { Connection } from '../../src/cli/connection.ts';
import { type LoopProbe, OwnLoop } from './event-loop.ts';
import { liveOnePod, type PodWish, removeBenchPods } from './lifecycle.ts';
import type { Endpoint } from './rounds.ts';

/** How late the event loop of a berthd was while pods lived. Times in milliseconds, the longest each. */
export interface LoopOfLives {
  readonly parallel: number;
  readonly lives: number;
  /** By what its thread did or slept through, without waits for a processor. */
  readonly holdUpMs: number;
  readonly lateMs: number;
  /** The loop of the bench, which has less to do: on a machine whose processors are all busy, any is that late. */
  readonly ownLateMs: number;
}

/** What to have live while the loop is watched. */
export interface LoopPlan extends PodWish {
  readonly parallel: number;
  readonly lives: number;
}

/** Has pods live at a berthd that was started with the probe's environment; as many before that do not count. */
export async function measureLoop(
  { address }: Endpoint,
  probe: LoopProbe,
  { parallel, lives, ...wish }: LoopPlan,
  signal: AbortSignal,
): Promise<LoopOfLives> {
  const cri = new Connection(address);
  const live = async (count: number): Promise<void> => {
    let left = count;
    const worker = async (): Promise<void> => {
      for (; left > 0; ) {
        left -= 1;
        await liveOnePod(cri, wish, signal);
      }
    };
    await Promise.all(Array.from({ length: parallel }, worker));
  };
  try {
    await live(lives);
    using own = new OwnLoop();
    const since = Date.now();
    await live(lives);
    const until = Date.now();
    const { maxMs } = own.delay();
    // It writes down what it saw only once nothing holds it up.
    await probe.settle();
    return { parallel, lives, ...probe.longest(since, until), ownLateMs: maxMs };
  } finally {
    await removeBenchPods(cri).finally(() => cri.close());
  }
}
