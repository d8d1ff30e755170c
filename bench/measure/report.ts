import { profileToMarkdown } from '../profile/profile.ts';
import type { Floors } from './floors.ts';
import { CALLS, SUMS } from './lifecycle.ts';
import type { LoopOfLives } from './loop-of-lives.ts';
import { ratioHeads, ratios, table } from './markdown.ts';
import type { EndpointResults, LevelFigures, Results } from './results.ts';
import { standingTable } from './standing-table.ts';
import { targetsTable } from './targets.ts';

/** The results as Markdown tables. The last columns are the first endpoint's p50 divided by each other's. */
export function toMarkdown(results: Results): string {
  const [first] = results.endpoints;
  if (!first) return '';
  const { endpoints, floors, loop } = results;
  const parts = [
    targetsTable(results),
    ...first.levels.map(({ parallel }) => levelTable(endpoints, parallel)),
    memoryTable(endpoints),
    streamTable(endpoints),
    ...first.standing.map(({ pods }) =>
      standingTable(
        endpoints.flatMap(({ name, standing }) =>
          standing.filter((one) => one.pods === pods).map((one) => ({ name, standing: one })),
        ),
      ),
    ),
    ...(loop ? [loopTable(first.name, loop)] : []),
    ...(floors ? [floorTable(floors)] : []),
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
    return [name, ...cells, ...ratios(figures.map(({ p50 }) => p50))];
  });
  const single: [string, (level: LevelFigures) => number][] = [
    ['lifecycles per second', (level) => level.lifecyclesPerSecond],
    ['CPU per lifecycle: machine', (level) => level.machineMsPerLifecycle],
    ['… of which the daemon itself', (level) => level.daemonMsPerLifecycle],
    ['… of which this client', (level) => level.clientMsPerLifecycle],
  ];
  const more = single.map(([name, read]) => {
    const values = levels.map(read);
    return [name, ...values.flatMap((value) => [milliseconds(value), '', '']), ...ratios(values)];
  });
  const names = found.map(({ name }) => name);
  const head = ['ms', ...names.flatMap((name) => [`${name} p50`, 'p99', 'min']), ...ratioHeads(names)];
  return `### ${parallel} at a time, ${count} lifecycles each${few}\n\n${table(head, [...rows, ...more])}`;
}

function memoryTable(endpoints: readonly EndpointResults[]): string {
  const rows = endpoints.map(({ name, runtime, lives, memoryBefore, memoryAfter, memoryRested }) => [
    `${name} (${runtime})`,
    megabytes(memoryBefore?.bytes),
    megabytes(memoryBefore?.anonymousBytes),
    String(lives),
    megabytes(memoryAfter?.bytes),
    megabytes(memoryAfter?.anonymousBytes),
    megabytes(memoryRested?.bytes),
    megabytes(memoryRested?.anonymousBytes),
  ]);
  const head = ['', 'before', 'of no file', 'lives', 'right after', 'of no file', 'rested', 'of no file'];
  return `### Memory of the daemon, PSS in MB\n\n${table(head, rows)}`;
}

function streamTable(endpoints: readonly EndpointResults[]): string {
  const found = endpoints.flatMap(({ name, streams }) => (streams ? [{ name, streams }] : []));
  if (found.length === 0) return '';
  const rows = (['exec', 'portForward'] as const).flatMap((kind) => {
    const of = found.map(({ streams }) => streams[kind]);
    const rates = of.map(({ bytesPerSecond }) => bytesPerSecond);
    const costs = of.map(({ daemonMsPerMegabyte }) => daemonMsPerMegabyte);
    const cost = (value: number | undefined): string => (value === undefined ? 'not seen' : value.toFixed(2));
    return [
      [`${kind}, MB/s`, ...rates.map(megabytes), ...ratios(rates)],
      ['… processor time of the daemon, ms for each MB', ...costs.map(cost), ...ratios(costs)],
    ];
  });
  const names = found.map(({ name }) => name);
  return `### Streams, SPDY\n\n${table(['', ...names, ...ratioHeads(names)], rows)}`;
}

function loopTable(name: string, { parallel, lives, ...of }: LoopOfLives): string {
  const rows = [
    ['held up by its own thread', [of.holdUpMs]],
    ['late in all, waits for a processor too', [of.lateMs]],
    ["the bench's own loop late", [of.ownLateMs]],
  ] as const;
  const cells = rows.map(([text, values]) => [text, ...values.map(milliseconds)]);
  return `### Event loop of ${name}, longest in ${lives} lives at ${parallel} at a time, in ms\n\n${table(['', 'longest'], cells)}`;
}

function floorTable({ runtime, cniAdd, cniDelete, ...calls }: Floors): string {
  const named = {
    'CNI ADD': cniAdd,
    'CNI DEL': cniDelete,
    ...Object.fromEntries(Object.entries(calls).map(([name, figures]) => [`${runtime} ${name}`, figures])),
  };
  const rows = Object.entries(named).map(([name, { p50, p99, min }]) => [name, ...[p50, p99, min].map(milliseconds)]);
  return `### The floor: plugin and runtime started by hand, in ms\n\n${table(['', 'p50', 'p99', 'min'], rows)}`;
}

function milliseconds(value: number): string {
  return value.toFixed(1);
}

function megabytes(bytes: number | undefined): string {
  return bytes === undefined ? 'not seen' : (bytes / 1e6).toFixed(1);
}
