/** What deploy/ has for Prometheus and Grafana: well formed, and about metrics and labels that there are. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { load } from 'js-yaml';

import { CATALOG, type MetricSpec } from '../../src/metrics/catalog.ts';
import { PrometheusMetrics } from '../../src/metrics/prometheus.ts';
import { readDashboard } from '../dashboard/read-dashboard.ts';

const deploy = (name: string): string => fileURLToPath(new URL(`../../deploy/${name}`, import.meta.url));
const ALERTS = deploy('prometheus/alerts.yml');
const KNOWN = new Set([...Object.keys(CATALOG), ...new PrometheusMetrics().names()]);
/** Labels that Prometheus adds. */
const ADDED = ['job', 'instance', 'le'];

/** The metric of a series' name: histograms have three series each. */
function metricOf(series: string): string {
  if (KNOWN.has(series)) return series;
  return series.replace(/_(bucket|sum|count)$/, '');
}

/** What an expression asks for that is not there. */
function problemsOf(expression: string): string[] {
  const problems: string[] = [];
  const labels = new Set(ADDED);
  for (const [, series = '', , matchers = ''] of expression.matchAll(/\b(berth_\w+|up)\b(\{([^}]*)\})?/g)) {
    const name = metricOf(series);
    const spec: MetricSpec | undefined = Object.entries<MetricSpec>(CATALOG).find(([own]) => own === name)?.[1];
    if (series !== 'up' && !KNOWN.has(name)) problems.push(`no metric ${series}`);
    if (spec?.type === 'histogram' && name === series) problems.push(`${series} is a histogram`);
    if (spec?.type === 'counter' && !/(rate|increase|changes)\(|sum\(/.test(expression))
      problems.push(`${series} is a counter`);
    const own = Object.keys(spec?.labels ?? {});
    for (const label of own) labels.add(label);
    for (const [, label = '', , value = ''] of matchers.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)) {
      if (!ADDED.includes(label) && !own.includes(label)) problems.push(`${series} has no label ${label}`);
      const values = spec?.labels[label];
      if (values && 'values' in values && /^[\w|-]+$/.test(value))
        for (const one of value.split('|')) if (!values.values.includes(one)) problems.push(`no ${label} is ${one}`);
    }
  }
  for (const [, list = ''] of expression.matchAll(/\b(?:by|on)\s*\(([^)]*)\)/g))
    for (const label of list.split(',').map((one) => one.trim()))
      if (!labels.has(label)) problems.push(`nothing has a label ${label}`);
  return problems;
}

function hasPromtool(): boolean {
  try {
    execFileSync('promtool', ['--version'], { stdio: 'ignore', timeout: 30_000 });
    return true;
  } catch {
    return false;
  }
}
const NO_PROMTOOL = hasPromtool() ? false : "Debian's prometheus, which has promtool, is not installed";

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

test('alert rules: each says for how long, how bad, what, and what to do, of metrics that there are', () => {
  const { groups } = load(readFileSync(ALERTS, 'utf8')) as { groups: { name: string; rules: Rule[] }[] };
  const rules = groups.flatMap((group) => group.rules);
  assert.ok(rules.length >= 25);
  assert.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length);
  for (const { alert, expr, for: duration, labels, annotations } of rules) {
    assert.match(alert, /^Berth[A-Z]\w+$/);
    assert.match(duration, /^\d+[smh]$/, alert);
    assert.match(labels['severity'] ?? '', /^(critical|warning|info)$/, alert);
    assert.match(annotations['summary'] ?? '', /\{\{ \$labels\.instance \}\}.*\.$/, alert);
    assert.ok((annotations['description'] ?? '').length > 40, alert);
    for (const [, label = ''] of `${annotations['summary']}`.matchAll(/\$labels\.(\w+)/g))
      assert.ok(expr.includes(label) || !expr.includes('sum by') || ADDED.includes(label), `${alert}: ${label}`);
    assert.deepEqual(problemsOf(expr), [], alert);
  }
});

test('an expression about what is not there is noticed', () => {
  assert.deepEqual(problemsOf('rate(berth_rpcs_total[5m])'), ['no metric berth_rpcs_total']);
  assert.deepEqual(problemsOf('berth_sandboxes{phase="ready"}'), ['berth_sandboxes has no label phase']);
  assert.deepEqual(problemsOf('berth_sandboxes{state="open"}'), ['no state is open']);
  assert.deepEqual(problemsOf('sum by (pod) (berth_images)'), ['nothing has a label pod']);
  assert.deepEqual(problemsOf('berth_rpc_total > 5'), ['berth_rpc_total is a counter']);
});

test("Prometheus' own tools take rules and scrape configuration, and the rules fire when they should", {
  skip: NO_PROMTOOL,
}, () => {
  const tool = (...args: string[]): string =>
    execFileSync('promtool', args, { encoding: 'utf8', stdio: 'pipe', timeout: 300_000 });
  assert.match(tool('check', 'rules', ALERTS), /SUCCESS/);
  tool('check', 'config', '--syntax-only', deploy('prometheus/scrape-config.yml'));
  tool('test', 'rules', fileURLToPath(new URL('../fixtures/alerts-test.yml', import.meta.url)));
});

test('the dashboard is a model that Grafana imports, of metrics that there are', () => {
  const dashboard = readDashboard();
  assert.equal(dashboard.uid, 'berth');
  assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length);
  assert.deepEqual(
    dashboard.templating.list.map(({ name }) => name),
    ['datasource', 'instance'],
  );
  const shown = dashboard.panels.filter(({ type }) => type !== 'row');
  assert.ok(shown.length >= 25);
  for (const { title, gridPos, targets = [], description } of shown) {
    assert.ok(gridPos.x + gridPos.w <= 24, title);
    assert.ok(targets.length > 0 && description !== undefined, title);
    for (const { expr } of targets) {
      assert.match(expr, /job="berth",instance=~"\$instance"/, title);
      assert.deepEqual(problemsOf(expr), [], title);
    }
  }
  const cells = shown.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, at) => `${x + (at % w)} ${y + Math.floor(at / w)}`),
  );
  assert.equal(new Set(cells).size, cells.length, 'panels lie on each other');
});
