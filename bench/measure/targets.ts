/** How what was measured stands to what Berth is to reach: as ratios to its peers in the same run, or in itself. */

import { table } from './markdown.ts';
import type { EndpointResults, LevelFigures, Results } from './results.ts';
import type { Standing } from './standing.ts';

/** With so many pods standing, lists and rest are judged; with so many more, the start. */
const STANDING = 100;
const MANY_STANDING = 400;

type Read = (endpoint: EndpointResults, results: Results) => number | undefined;

interface Target {
  readonly name: string;
  readonly unit: string;
  readonly read: Read;
  /** At most this; undefined when only ratios count. */
  readonly most?: number;
  /** At most this much of the peer's. */
  readonly ofCrio?: number;
  readonly ofContainerd?: number;
  /** More is better: at least this much of the peer's. */
  readonly leastOfCrio?: number;
}

const TARGETS: readonly Target[] = [
  ...([1, 4] as const).flatMap((parallel) =>
    (['p50', 'p99'] as const).map((rank) => ({
      name: `pod up, ${rank}, ${parallel} at a time`,
      unit: 'ms',
      read: atLevel(parallel, ({ calls }) => calls['pod up']?.[rank]),
      ofCrio: 0.5,
      ofContainerd: 0.4,
    })),
  ),
  { name: 'pod up above the floor, p50', unit: 'ms', read: aboveFloor, most: 15 },
  {
    name: 'processor time of the machine for a life',
    unit: 'ms',
    read: atLevel(1, machineTime),
    ofCrio: 0.65,
  },
  { name: 'pod down, p50', unit: 'ms', read: atLevel(1, ({ calls }) => calls['pod down']?.p50), ofCrio: 0.4 },
  { name: 'ExecSync, p50', unit: 'ms', read: atLevel(1, ({ calls }) => calls['ExecSync']?.p50), ofCrio: 0.7 },
  {
    name: 'lives per second, 4 at a time',
    unit: '1/s',
    read: atLevel(4, ({ lifecyclesPerSecond }) => lifecyclesPerSecond),
    leastOfCrio: 2,
  },
  ...['ListContainerStats', 'ListPodSandboxStats'].map((call) => ({
    name: `${call}, ${STANDING} pods, p50`,
    unit: 'ms',
    read: standing(STANDING, ({ calls }) => calls[call]?.p50),
    ofCrio: 0.1,
  })),
  {
    name: 'oldest figure in their answers',
    unit: 'ms',
    read: standing(STANDING, ({ oldestFigureMs }) => oldestFigureMs),
    most: 10_000,
  },
  { name: 'memory of the daemon after 200 lives, rested', unit: 'MB', read: memoryAfterLives, most: 80 },
  {
    name: 'memory of each standing pod besides',
    unit: 'MB',
    read: standing(STANDING, ({ bytesPerPod }) => scaled(bytesPerPod, 1e-6)),
    most: 0.5,
  },
  { name: 'event loop held up, longest, 16 at a time', unit: 'ms', read: longestHoldUp, most: 10 },
  {
    name: `processor at rest, ${STANDING} pods`,
    unit: '%',
    read: standing(STANDING, ({ restShare }) => scaled(restShare, 100)),
    most: 2,
  },
  { name: 'start, empty', unit: 'ms', read: standing(STANDING, ({ emptyStartMs }) => emptyStartMs), most: 250 },
  {
    name: `start with ${MANY_STANDING} pods`,
    unit: 'ms',
    read: standing(MANY_STANDING, ({ startMs }) => startMs),
    most: 1000,
  },
];

const MET = 'yes';
const MISSED = '**no**';

/** The targets that could be measured, as Markdown; empty where the first endpoint is no Berth, or nothing is measured. */
export function targetsTable(results: Results): string {
  const [first] = results.endpoints;
  if (!first?.runtime.startsWith('berth ')) return '';
  const crio = results.endpoints.find(({ runtime }) => /^cri-o /i.test(runtime));
  const containerd = results.endpoints.find(({ runtime }) => runtime.startsWith('containerd '));
  const rows = TARGETS.flatMap((target) => {
    const { name, unit, read, most, ofCrio, ofContainerd, leastOfCrio } = target;
    const value = read(first, results);
    if (value === undefined) return [];
    const to = (peer: EndpointResults | undefined): number | undefined => {
      const other = peer && read(peer, results);
      return other === undefined ? undefined : value / other;
    };
    const [toCrio, toContainerd] = [to(crio), to(containerd)];
    const judged = [
      ...(most === undefined ? [] : [value <= most]),
      ...(ofCrio === undefined || toCrio === undefined ? [] : [toCrio <= ofCrio]),
      ...(leastOfCrio === undefined || toCrio === undefined ? [] : [toCrio >= leastOfCrio]),
      ...(ofContainerd === undefined || toContainerd === undefined ? [] : [toContainerd <= ofContainerd]),
    ];
    const limits = [
      ...(most === undefined ? [] : [`${most} ${unit}`]),
      ...(ofCrio === undefined ? [] : [`${ofCrio} of CRI-O`]),
      ...(leastOfCrio === undefined ? [] : [`at least ${leastOfCrio} of CRI-O`]),
      ...(ofContainerd === undefined ? [] : [`${ofContainerd} of containerd`]),
    ];
    return [
      [name, limits.join(', '), `${value.toFixed(2)} ${unit}`, ratio(toCrio), ratio(toContainerd), verdict(judged)],
    ];
  });
  if (rows.length === 0) return '';
  const head = [
    '',
    'at most',
    first.name,
    `of ${crio?.name ?? 'CRI-O'}`,
    `of ${containerd?.name ?? 'containerd'}`,
    'met',
  ];
  const alone = crio || containerd ? '' : '\nNothing was measured beside it; see --with in bench/README.md.\n';
  return `### Targets\n\n${table(head, rows)}${alone}`;
}

function verdict(judged: readonly boolean[]): string {
  if (judged.length === 0) return 'not compared';
  return judged.every(Boolean) ? MET : MISSED;
}

/** What others used at rest has been taken off: where they have stopped meanwhile, it is less than nothing. */
function machineTime({ machineMsPerLifecycle }: LevelFigures): number | undefined {
  return machineMsPerLifecycle > 0 ? machineMsPerLifecycle : undefined;
}

function atLevel(parallel: number, read: (level: LevelFigures) => number | undefined): Read {
  return ({ levels }) => {
    const level = levels.find((one) => one.parallel === parallel);
    return level && read(level);
  };
}

function standing(pods: number, read: (standing: Standing) => number | undefined): Read {
  return (endpoint) => {
    const found = endpoint.standing.find((one) => one.pods === pods);
    return found && read(found);
  };
}

function aboveFloor(endpoint: EndpointResults, { floors }: Results): number | undefined {
  const up = endpoint.levels.find(({ parallel }) => parallel === 1)?.calls['pod up']?.p50;
  if (up === undefined || !floors) return undefined;
  return up - floors.cniAdd.p50 - floors.create.p50 - floors.start.p50;
}

/** What it keeps: garbage of its last seconds of work is not. */
function memoryAfterLives({ memoryRested, lives }: EndpointResults): number | undefined {
  return lives < 200 ? undefined : scaled(memoryRested?.bytes, 1e-6);
}

function longestHoldUp(endpoint: EndpointResults, { endpoints, loop }: Results): number | undefined {
  return endpoint === endpoints[0] && loop?.parallel === 16 ? loop.holdUpMs : undefined;
}

function scaled(value: number | undefined, factor: number): number | undefined {
  return value === undefined ? undefined : value * factor;
}

function ratio(value: number | undefined): string {
  return value === undefined ? '' : value.toFixed(2);
}
