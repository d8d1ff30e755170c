import { ratioHeads, ratios, table } from './markdown.ts';
import type { Standing } from './standing.ts';

/** What some pods that stand cost at each endpoint, as Markdown. */
export function standingTable(endpoints: readonly { readonly name: string; readonly standing: Standing }[]): string {
  const [first] = endpoints;
  if (!first) return '';
  const rows = Object.keys(first.standing.calls).map((call) => {
    const figures = endpoints.map(({ standing }) => standing.calls[call]);
    return [
      `${call}, ms`,
      ...figures.flatMap((one) => [fixed(2)(one?.p50), fixed(2)(one?.p99)]),
      ...ratios(figures.map((one) => one?.p50)),
    ];
  });
  const facts: readonly (readonly [string, number, (standing: Standing) => number | undefined])[] = [
    ['oldest figure of the statistics, ms', 0, ({ oldestFigureMs }) => oldestFigureMs],
    ['daemon, PSS in MB', 1, ({ daemon }) => scaled(daemon?.bytes, 1e-6)],
    ['… of which of no file', 1, ({ daemon }) => scaled(daemon?.anonymousBytes, 1e-6)],
    ['each pod besides, PSS in MB', 2, ({ bytesPerPod }) => scaled(bytesPerPod, 1e-6)],
    ['daemon while a kubelet asks, % of a processor', 1, ({ restShare }) => scaled(restShare, 100)],
    ['start to the first answer without pods, ms', 0, ({ emptyStartMs }) => emptyStartMs],
    ['… with these, ms', 0, ({ startMs }) => startMs],
  ];
  const more = facts.map(([name, digits, read]) => {
    const values = endpoints.map(({ standing }) => read(standing));
    return [name, ...values.flatMap((value) => [fixed(digits)(value), '']), ...ratios(values)];
  });
  const names = endpoints.map(({ name }) => name);
  const head = ['', ...names.flatMap((name) => [`${name} p50`, 'p99']), ...ratioHeads(names)];
  return `### ${first.standing.pods} pods standing\n\n${table(head, [...rows, ...more])}`;
}

function scaled(value: number | undefined, factor: number): number | undefined {
  return value === undefined ? undefined : value * factor;
}

function fixed(digits: number): (value: number | undefined) => string {
  return (value) => (value === undefined ? 'not seen' : value.toFixed(digits));
}
