import { type Profile, profileToMarkdown } from '../profile/profile.ts';
import type { Floors } from './floors.ts';
import { CALLS, type Call, type Sample, SUMS } from './lifecycle.ts';
import type { Level, Measured, Measurement, Round } from './rounds.ts';
import { type Standing, standingToMarkdown } from './standing.ts';
import { type Figures, figuresOf, median } from './statistics.ts';

/** The figures of one endpoint at one number at a time. Times in milliseconds. */
export interface LevelFigures {
  readonly parallel: number;
  readonly calls: Readonly<Record<string, Figures>>;
  /** Median of the rounds, like those below. */
  readonly lifecyclesPerSecond: number;
  readonly machineMsPerLifecycle: number;
  readonly daemonMsPerLifecycle: number;
  readonly clientMsPerLifecycle: number;
}

/** What a bench found, for programs. */
export interface Results {
  readonly startedAt: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly idleMsPerSecond: number;
  readonly floors: Floors | undefined;
  readonly profiles: readonly Profile[];
  readonly endpoints: readonly {
    readonly name: string;
    readonly runtime: string;
    readonly memoryBeforeBytes: number | undefined;
    readonly memoryAfterBytes: number | undefined;
    readonly levels: readonly LevelFigures[];
    /** Undefined when no pods were to stand. */
    readonly standing: Standing | undefined;
  }[];
}

type EndpointResults = Results['endpoints'][number];

/** Brings measurements into the form in which they are kept. */
export function summarise(
  { idleMsPerSecond, endpoints }: Measurement,
  about: Pick<Results, 'startedAt' | 'machine' | 'floors' | 'profiles'>,
): Results {
  return {
    ...about,
    idleMsPerSecond,
    endpoints: endpoints.map(({ name, runtime, memoryBefore, memoryAfter, levels, standing }: Measured) => ({
      name,
      runtime,
      memoryBeforeBytes: memoryBefore,
      memoryAfterBytes: memoryAfter,
      levels: levels.map(levelFigures),
      standing,
    })),
  };
}

function levelFigures({ parallel, rounds }: Level): LevelFigures {
  const samples = rounds.flatMap((round) => round.samples);
  const sumOf = (sample: Sample, calls: readonly Call[]): number => calls.reduce((sum, call) => sum + sample[call], 0);
  const perRound = (value: (round: Round) => number): number =>
    median(rounds.map((round) => value(round) / round.samples.length));
  return {
    parallel,
    calls: Object.fromEntries([
      ...CALLS.map((call) => [call, figuresOf(samples.map((sample) => sample[call]))]),
      ...Object.entries(SUMS).map(([name, calls]) => [name, figuresOf(samples.map((sample) => sumOf(sample, calls)))]),
    ]),
    lifecyclesPerSecond: median(rounds.map((round) => (round.samples.length * 1000) / round.wallMs)),
    machineMsPerLifecycle: perRound((round) => round.machineMs),
    daemonMsPerLifecycle: perRound((round) => round.daemonMs),
    clientMsPerLifecycle: perRound((round) => round.clientMs),
  };
}

/** The results as Markdown tables. With two endpoints, the last column is the first's p50 divided by the second's. */
export function toMarkdown(results: Results): string {
  const [first] = results.endpoints;
  if (!first) return '';
  const parts = [
    ...first.levels.map(({ parallel }) => levelTable(results.endpoints, parallel)),
    memoryTable(results.endpoints),
    standingToMarkdown(results.endpoints.flatMap(({ name, standing }) => (standing ? [{ name, standing }] : []))),
    ...(results.floors ? [floorTable(results.floors)] : []),
    ...results.profiles.map(profileToMarkdown),
  ];
  return [...busyWarning(results), ...parts.filter((part) => part !== '')].join('\n');
}

/** Others that compete for processors stretch all times, and the more so the more processes a runtime starts. */
function busyWarning({ machine, idleMsPerSecond }: Results): string[] {
  const cpus = Number(machine['cpus']);
  const idle = Math.round((idleMsPerSecond / 1000 / cpus) * 100);
  if (idle < 5) return [];
  return [
    `The machine was ${idle} % busy with other things before the first round: trust the ratios, not the times.\n`,
  ];
}

function levelTable(endpoints: readonly EndpointResults[], parallel: number): string {
  const found = endpoints.flatMap(({ name, levels }) =>
    levels.filter((level) => level.parallel === parallel).map((level) => ({ name, level })),
  );
  const levels = found.map(({ level }) => level);
  const count = levels[0]?.calls['pod up']?.count ?? 0;
  const few = count < 100 ? '; of fewer than 100, p99 is the slowest' : '';
  const rows = [...Object.keys(SUMS), ...CALLS].map((name) => {
    const figures = levels.flatMap(({ calls }) => calls[name] ?? []);
    const cells = figures.flatMap(({ p50, p99, min }) => [p50, p99, min].map(milliseconds));
    return [name, ...cells, ...ratio(figures.map(({ p50 }) => p50))];
  });
  const single: [string, (level: LevelFigures) => number][] = [
    ['lifecycles per second', (level) => level.lifecyclesPerSecond],
    ['CPU per lifecycle: machine', (level) => level.machineMsPerLifecycle],
    ['… of which the daemon itself', (level) => level.daemonMsPerLifecycle],
    ['… of which this client', (level) => level.clientMsPerLifecycle],
  ];
  const more = single.map(([name, read]) => {
    const values = levels.map(read);
    return [name, ...values.flatMap((value) => [milliseconds(value), '', '']), ...ratio(values)];
  });
  const names = found.map(({ name }) => name);
  const head = ['ms', ...names.flatMap((name) => [`${name} p50`, 'p99', 'min']), ...ratioHead(names)];
  return `### ${parallel} at a time, ${count} lifecycles each${few}\n\n${table(head, [...rows, ...more])}`;
}

function memoryTable(endpoints: readonly EndpointResults[]): string {
  const rows = endpoints.map(({ name, runtime, memoryBeforeBytes, memoryAfterBytes }) => [
    `${name} (${runtime})`,
    megabytes(memoryBeforeBytes),
    megabytes(memoryAfterBytes),
  ]);
  return `### Memory of the daemon, PSS in MB\n\n${table(['', 'before', 'after'], rows)}`;
}

function floorTable({ runtime, ...calls }: Floors): string {
  const rows = Object.entries(calls).map(([name, { p50, p99, min }]) => [name, ...[p50, p99, min].map(milliseconds)]);
  return `### ${runtime} alone, in ms\n\n${table(['', 'p50', 'p99', 'min'], rows)}`;
}

function ratioHead(names: readonly string[]): string[] {
  return names.length === 2 ? [names.join(' / ')] : [];
}

function ratio([first, second, ...others]: readonly number[]): string[] {
  return first === undefined || second === undefined || others.length > 0 ? [] : [(first / second).toFixed(2)];
}

function milliseconds(value: number): string {
  return value.toFixed(1);
}

function megabytes(bytes: number | undefined): string {
  return bytes === undefined ? 'not seen' : (bytes / 1e6).toFixed(1);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  const rule = line(head.map((_, index) => (index === 0 ? '---' : '---:')));
  return `${line(head)}${rule}${rows.map(line).join('')}`;
}
