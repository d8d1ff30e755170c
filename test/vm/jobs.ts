/** What is run in the virtual machine, in this order. Each file says at its top what it shows. */

/** Commands of the machine's shell that succeed or fail. It reboots between one phase and the next. */
export interface Job {
  readonly name: string;
  readonly phases: readonly [string, ...string[]];
  /** For each phase, by the machine's clock. By the host's it takes five to ten times that, and more when it is busy. */
  readonly minutes: number;
  /** Also part of the short form. */
  readonly isShort: boolean;
}

/** Where the checkout is in the machine, and where jobs leave files for the host. */
export const CHECKOUT = '/opt/berth';
export const RESULTS = '/var/lib/berth-vm/results';

/** Runs test files one after the other, each with a report beside its output. */
function tests(name: string, ...files: readonly string[]): string {
  const reporters = [
    ...['--test-reporter=spec', '--test-reporter-destination=stdout'],
    ...['--test-reporter=junit', `--test-reporter-destination=${RESULTS}/${name}.xml`],
  ];
  return `exec node --test --test-concurrency=1 ${reporters.join(' ')} ${files.join(' ')}`;
}

const job = (name: string): string => `test/vm/jobs/${name}`;
const integration = (name: string): string => `test/integration/${name}.test.ts`;

/** Installs the package, and prepares what the other jobs need. Always run first. */
export const INSTALL: Job = { name: 'install', phases: [`exec sh ${job('install.sh')}`], minutes: 5, isShort: true };

/** All others. */
export const JOBS: readonly Job[] = [
  {
    name: 'apparmor',
    phases: [tests('apparmor', job('apparmor.test.ts'), integration('exec-join'))],
    minutes: 5,
    isShort: true,
  },
  { name: 'restart', phases: [tests('restart', job('restart.test.ts'))], minutes: 6, isShort: true },
  { name: 'cgroups', phases: [`exec sh ${job('cgroups.sh')} ${RESULTS}`], minutes: 30, isShort: false },
  { name: 'upgrade', phases: [tests('upgrade', job('upgrade.test.ts'))], minutes: 10, isShort: true },
  { name: 'conformance', phases: [`exec sh ${job('conformance.sh')}`], minutes: 15, isShort: false },
  {
    name: 'node',
    phases: [
      tests(
        'node',
        ...[
          'systemd',
          'cgroups-systemd',
          'cgroups-cgroupfs',
          'resources',
          'stats',
          'security-apparmor',
          'berthd-restart',
        ].map(integration),
      ),
    ],
    minutes: 30,
    isShort: false,
  },
  { name: 'critest', phases: [`exec sh ${job('critest.sh')}`], minutes: 40, isShort: false },
  {
    name: 'kubelet',
    // Those in which the cgroup driver and cgroup v2 have a part.
    phases: [
      `export KUBELET_BIN=${CHECKOUT}/vm/kubelet
       exec node test/kubelet/run.ts --output ${RESULTS}/kubelet pods-parts stats cluster`,
    ],
    minutes: 60,
    isShort: false,
  },
  {
    name: 'reboot',
    phases: [tests('reboot-before', job('reboot-before.test.ts')), tests('reboot-after', job('reboot-after.test.ts'))],
    minutes: 5,
    isShort: true,
  },
];

/** The jobs of that form, or those that are named. Throws for a name that is none. */
export function chooseJobs(names: readonly string[], isLong: boolean): readonly Job[] {
  for (const name of names) {
    if (!JOBS.some((known) => known.name === name))
      throw new Error(`there is no job ${name}; there are: ${JOBS.map((known) => known.name).join(', ')}`);
  }
  if (names.length > 0) return JOBS.filter(({ name }) => names.includes(name));
  return JOBS.filter(({ isShort }) => isLong || isShort);
}

/** A phase as the machine's shell runs it. */
export function shellCommand(phase: string): string {
  return [
    `cd ${CHECKOUT}`,
    `export PATH=${CHECKOUT}/node_modules/.bin:$PATH BERTH_TEST_VM=1`,
    `mkdir -p ${RESULTS}`,
    phase,
  ].join('\n');
}
