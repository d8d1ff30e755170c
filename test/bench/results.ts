import type { EndpointResults, Results } from '../../bench/measure/results.ts';
import type { Figures } from '../../bench/measure/statistics.ts';

const MACHINE = { cpus: 2, kernel: '6.18' };

function figures(p50: number): Figures {
  return { count: 10, min: p50 / 2, p50, p99: p50 * 2 };
}

/** Figures of an endpoint, all in proportion to one number. */
export function endpointOf(name: string, runtime: string, ms: number): EndpointResults {
  const memory = { bytes: ms * 1e6, anonymousBytes: ms * 5e5 };
  const calls = { 'pod up': figures(ms), 'pod down': figures(ms), ExecSync: figures(ms) };
  return {
    name,
    runtime,
    memoryBefore: memory,
    memoryAfter: { bytes: ms * 3e6, anonymousBytes: ms * 2e6 },
    memoryRested: memory,
    lives: 208,
    levels: [1, 4].map((parallel) => ({
      parallel,
      calls,
      lifecyclesPerSecond: 1000 / ms,
      machineMsPerLifecycle: ms,
      daemonMsPerLifecycle: ms,
      clientMsPerLifecycle: 1,
    })),
    streams: undefined,
    standing: [
      {
        pods: 100,
        calls: { ListContainerStats: figures(ms), ListPodSandboxStats: figures(ms) },
        oldestFigureMs: ms,
        daemon: memory,
        bytesPerPod: ms * 1e4,
        restShare: ms / 1e4,
        emptyStartMs: ms,
        startMs: ms,
      },
    ],
  };
}

/** Results of some endpoints, on a machine that did nothing else. */
export function resultsOf(endpoints: readonly EndpointResults[]): Results {
  return {
    startedAt: '2026-01-01T00:00:00.000Z',
    machine: MACHINE,
    idleMsPerSecond: 0,
    floors: undefined,
    loop: { parallel: 16, lives: 10, holdUpMs: 12, lateMs: 20, ownLateMs: 3 },
    profiles: [],
    endpoints,
  };
}
