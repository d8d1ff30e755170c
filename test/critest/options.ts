import { parseArgs } from 'node:util';

/** One way to run the suite. */
export interface Variant {
  /** Exec, attach and port-forward over WebSocket instead of SPDY. */
  readonly websocket: boolean;
  /** How many specs at a time. */
  readonly parallel: number;
  /** The suite's benchmarks instead of its specs. */
  readonly benchmark: boolean;
  /** How often each benchmark does what it measures. */
  readonly samples: number;
}

/** What the runner was asked to do. */
export interface Options {
  /** Undefined: a berthd is started for it. */
  readonly endpoint: string | undefined;
  /** Start Debian's containerd instead of a berthd. */
  readonly containerd: boolean;
  /** Where the registry with the suite's images listens. */
  readonly registry: string;
  /** Run one after the other, each as often as `runs` says. */
  readonly variants: readonly Variant[];
  /** Undefined: a new one for each run. */
  readonly seed: number | undefined;
  readonly runs: number;
  readonly focus: readonly string[];
  readonly skip: readonly string[];
  readonly runtimeHandler: string;
  /** OCI runtime of the berthd that is started; undefined: its own choice. */
  readonly runtime: string | undefined;
  /** File for the counts, in the form that scripts/test.sh sums up. */
  readonly summary: string | undefined;
  /** Folder that keeps the reports and logs. */
  readonly output: string | undefined;
}

/** The two transports, and specs that run alone as well as side by side. */
const EVERYTHING: readonly Variant[] = [
  { websocket: false, parallel: 1, benchmark: false, samples: 0 },
  { websocket: true, parallel: 3, benchmark: false, samples: 0 },
  { websocket: false, parallel: 1, benchmark: true, samples: 5 },
];

/** Says how to use the runner. */
export const USAGE = `Usage: npm run critest -- [OPTION]...
Runs the official conformance suite, critest, against a berthd that it starts, and against a registry of its own.

  --endpoint unix:///PATH    run against this one; it must take the images of registry.k8s.io, k8s.gcr.io, gcr.io and
                             public.ecr.aws from the mirror at --registry
  --containerd               run against Debian's containerd, which it starts
  --registry HOST:PORT       where the registry listens (127.0.0.1, any free port)
  --websocket                exec, attach and port-forward over WebSocket, not SPDY
  --parallel N               as many specs at a time (1)
  --seed N                   order of the specs (another one each time)
  --runs N                   so many runs, one after the other (1)
  --focus REGEX              only specs that match; again for more
  --skip REGEX               no specs that match; again for more
  --runtime NAME             OCI runtime of the berthd that it starts (berthd's own choice)
  --runtime-handler NAME     handler that pods ask for (the default one)
  --benchmark                the suite's benchmarks instead
  --samples N                how often each benchmark does what it measures (50)
  --everything               over SPDY, over WebSocket with specs side by side, and a few benchmarks: as npm test does
  --summary FILE             also write the counts there
  --output DIR               keep the reports and logs there
`;

/** Reads the command line; undefined means that help is wanted. Throws with what is wrong. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      endpoint: { type: 'string' },
      containerd: { type: 'boolean', default: false },
      registry: { type: 'string' },
      websocket: { type: 'boolean', default: false },
      parallel: { type: 'string', default: '1' },
      seed: { type: 'string' },
      runs: { type: 'string', default: '1' },
      focus: { type: 'string', multiple: true, default: [] },
      skip: { type: 'string', multiple: true, default: [] },
      runtime: { type: 'string' },
      'runtime-handler': { type: 'string', default: '' },
      benchmark: { type: 'boolean', default: false },
      samples: { type: 'string', default: '50' },
      everything: { type: 'boolean', default: false },
      summary: { type: 'string' },
      output: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  if (values.endpoint !== undefined && !/^unix:\/\/\/./.test(values.endpoint))
    throw new Error(`--endpoint ${values.endpoint}: expected unix:///PATH`);
  if (values.endpoint !== undefined && values.containerd)
    throw new Error('--endpoint and --containerd exclude each other');
  if (values.endpoint !== undefined && values.registry === undefined) throw new Error('--endpoint needs --registry');
  const ownVariant = {
    websocket: values.websocket,
    parallel: parseCount('--parallel', values.parallel),
    benchmark: values.benchmark,
    samples: parseCount('--samples', values.samples),
  };
  return {
    endpoint: values.endpoint,
    containerd: values.containerd,
    registry: values.registry ?? '127.0.0.1:0',
    variants: values.everything ? EVERYTHING : [ownVariant],
    seed: values.seed === undefined ? undefined : parseCount('--seed', values.seed),
    runs: parseCount('--runs', values.runs),
    focus: values.focus,
    skip: values.skip,
    runtimeHandler: values['runtime-handler'],
    runtime: values.runtime,
    summary: values.summary,
    output: values.output,
  };
}

function parseCount(option: string, text: string): number {
  const count = Number(text);
  if (!/^\d{1,9}$/.test(text) || count === 0) throw new Error(`${option} ${text}: expected a positive number`);
  return count;
}
