import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { chooseJobs, JOBS, type Job } from './jobs.ts';

/** What the runner was asked to do. */
export interface Options {
  readonly jobs: readonly Job[];
  /** Folder for what comes out. */
  readonly results: string;
  /** Make the base image again, although one is in the cache. */
  readonly rebuild: boolean;
  /** Boot, install, and wait for commands from test/vm/exec.ts instead of running jobs. */
  readonly hold: boolean;
  readonly accelerator: 'tcg' | 'kvm';
  readonly memoryMib: number;
  /** An OCI runtime for pods that name none; undefined: berthd's own choice. */
  readonly runtime: string | undefined;
}

const DEFAULT_RESULTS = resolve(import.meta.dirname, 'results');

/** Says how to use the runner. */
export const USAGE = `Usage: npm run test:vm -- [OPTION]... [JOB]...
Installs Berth's package in a Debian with systemd, cgroup v2 and AppArmor, which qemu emulates, and runs jobs there.

  --long             all jobs: ${JOBS.map(({ name }) => name).join(', ')}
                     (otherwise: ${JOBS.filter(({ isShort }) => isShort)
                       .map(({ name }) => name)
                       .join(', ')})
  --results FOLDER   for the jobs' output and reports, the journal and the console (test/vm/results)
  --runtime NAME     OCI runtime of pods that name none (berthd's own choice)
  --rebuild          make the base image again, although one is in the cache
  --hold             boot, install, and wait for commands from test/vm/exec.ts; runs no jobs
  --accel tcg|kvm    kvm on a host that has it in full (tcg: emulation)
  --memory MIB       of the machine (2560)
`;

/** Reads the command line; undefined means that help is wanted. Throws with what is wrong. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      long: { type: 'boolean', default: false },
      results: { type: 'string', default: DEFAULT_RESULTS },
      runtime: { type: 'string' },
      rebuild: { type: 'boolean', default: false },
      hold: { type: 'boolean', default: false },
      accel: { type: 'string', default: 'tcg' },
      memory: { type: 'string', default: '2560' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const memoryMib = Number(values.memory);
  if (!Number.isInteger(memoryMib) || memoryMib < 1024)
    throw new Error(`--memory ${values.memory}: expected MiB, at least 1024`);
  if (values.accel !== 'tcg' && values.accel !== 'kvm') throw new Error(`--accel ${values.accel}: expected tcg or kvm`);
  return {
    jobs: chooseJobs(positionals, values.long),
    results: resolve(values.results),
    rebuild: values.rebuild,
    hold: values.hold,
    accelerator: values.accel,
    memoryMib,
    runtime: values.runtime,
  };
}
