import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const START_TIMEOUT_MS = 60_000;

/** One line of a graph: its labels, and its values over time. */
export interface Series {
  readonly labels: Readonly<Record<string, string>>;
  /** Seconds since 1970, and the value there. */
  readonly points: readonly (readonly [number, number])[];
}

/** A Prometheus of Debian's package, which scrapes one berthd every second and forgets all at the end. */
export class Prometheus implements AsyncDisposable {
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly #url: string;

  private constructor(folder: string, child: ChildProcess, url: string) {
    this.#folder = folder;
    this.#child = child;
    this.#url = url;
  }

  /** Starts it on `target`, a host and a port, with rules from a file. */
  static async start(target: string, rules: string): Promise<Prometheus> {
    const folder = mkdtempSync(join(tmpdir(), 'berth-prometheus-'));
    const config = [
      'global: {scrape_interval: 1s, evaluation_interval: 5s}',
      `rule_files: ['${rules}']`,
      'scrape_configs:',
      '  - job_name: berth',
      `    static_configs: [{targets: ['${target}'], labels: {instance: node-1}}]`,
    ];
    writeFileSync(join(folder, 'prometheus.yml'), `${config.join('\n')}\n`);
    const address = `127.0.0.1:${await freePort()}`;
    const args = [
      `--config.file=${join(folder, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${address}`,
      '--log.level=error',
    ];
    const child = spawn('prometheus', args, { stdio: ['ignore', 'inherit', 'inherit'] });
    const prometheus = new Prometheus(folder, child, `http://${address}`);
    const giveUpAt = Date.now() + START_TIMEOUT_MS;
    while (!(await fetch(`http://${address}/-/ready`).catch(() => undefined))?.ok) {
      assert.ok(Date.now() < giveUpAt && child.exitCode === null, 'Prometheus does not answer');
      await delay(100);
    }
    return prometheus;
  }

  /** Evaluates an expression at each step of a time; values that are no numbers are left out. Throws for a bad one. */
  async range(expression: string, fromSeconds: number, toSeconds: number, stepSeconds: number): Promise<Series[]> {
    const query = new URLSearchParams({
      query: expression,
      start: String(fromSeconds),
      end: String(toSeconds),
      step: String(stepSeconds),
    });
    const { result } = (await this.#ask(`/api/v1/query_range?${query}`)) as {
      result: { metric: Record<string, string>; values: [number, string][] }[];
    };
    return result.map(({ metric, values }) => ({
      labels: metric,
      points: values.map(([at, text]) => [at, Number(text)] as const).filter(([, value]) => Number.isFinite(value)),
    }));
  }

  /** What keeps rules from being evaluated, by rule. */
  async ruleProblems(): Promise<string[]> {
    const { groups } = (await this.#ask('/api/v1/rules')) as {
      groups: { rules: { name: string; health: string; lastError?: string }[] }[];
    };
    const rules = groups.flatMap((group) => group.rules);
    return rules.flatMap(({ name, health, lastError }) => (health === 'ok' ? [] : [`${name}: ${health} ${lastError}`]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#child.once('exit', () => resolve());
    if (this.#child.exitCode === null && this.#child.kill('SIGTERM')) await promise;
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #ask(path: string): Promise<unknown> {
    const answer = (await (await fetch(this.#url + path)).json()) as { status: string; error?: string; data: unknown };
    assert.equal(answer.status, 'success', `${path}: ${answer.error}`);
    return answer.data;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, '127.0.0.1', resolve);
  await promise;
  const address = server.address();
  server.close();
  return typeof address === 'object' && address ? address.port : 0;
}
