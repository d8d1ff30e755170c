/** What documents tell to type is there: commands and flags of berth and berthd, configuration keys, links and anchors. */

import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import type { Command } from 'commander';

import { buildProgram } from '../../src/cli/program.ts';
import { HANDLER_KEYS, TABLES, TOP_KEYS } from '../../src/config/schema.ts';
import { CATALOG } from '../../src/metrics/catalog.ts';
import { PrometheusMetrics } from '../../src/metrics/prometheus.ts';

const top = fileURLToPath(new URL('../..', import.meta.url));
const documents = ['README.md', ...globSync('{docs,deploy,bench}/*.md', { cwd: top }).sort()];

const { scripts: SCRIPTS } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8')) as { scripts: object };
const METRICS = new Set([...Object.keys(CATALOG), ...new PrometheusMetrics().names()]);

const unused = (): never => assert.fail('no command is run');
const program = buildProgram({
  output: { out: unused, err: unused, outBytes: unused },
  env: {},
  connect: unused,
  watchInterrupts: unused,
  checkNode: unused,
  planOnNode: unused,
  examineNode: unused,
  saysErrors: false,
  finish: unused,
});

/** What a document shows as typed: indented and fenced blocks by the line, and what stands in backticks. */
function typedIn(text: string): string[] {
  const blocks = text.split('\n').flatMap((line) => (/^(?: {4}|\t)\s*\S/.test(line) ? [line.trim()] : []));
  const fenced = [...text.matchAll(/^```\w*\n([\s\S]*?)^```/gm)].flatMap(([, block = '']) => block.split('\n'));
  const inline = [...text.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code.replaceAll('\n', ' '));
  return [...blocks, ...fenced, ...inline];
}

/** Calls of berth in a line of shell, each as its words. */
function callsIn(line: string): string[][] {
  const plain = line
    .replace(/(^|\s)#.*$/, '')
    .replaceAll(/'[^']*'/g, (quoted) => (/\bberth\b/.test(quoted) ? quoted.slice(1, -1) : 'QUOTED'));
  return plain
    .split(/[;|&()]|\$\(|>/)
    .map((part) => part.trim().replace(/^(?:sudo |docker exec \S+ |minikube ssh -- (?:sudo )?|sh -c |time |dir=)+/, ''))
    .filter((part) => /^(?:\S*\/bin\/)?berth(?:\s|$)/.test(part))
    .map((part) => part.replaceAll(/[[\]]/g, '').split(/\s+/).slice(1));
}

/** What is wrong with a call; empty when nothing is. A word in capitals stands for anything. */
function problemOf(words: readonly string[]): string {
  let command: Command = program;
  let position = 0;
  for (const [i, word] of words.entries()) {
    if (word === '--') break;
    if (word === '...') return '';
    if (word.startsWith('-')) {
      const flag = word.replace(/=.*$/, '');
      const known = [...command.options, ...program.options, ...(command.parent?.options ?? [])];
      if (['--help', '-h'].includes(flag)) continue;
      const option = known.find(({ short, long }) => short === flag || long === flag);
      if (!option) return `${command.name()} has no ${flag}`;
      continue;
    }
    const inner = command.commands.find((candidate) => candidate.name() === word);
    if (inner) command = inner;
    else if (command.commands.length > 0 && command.registeredArguments.length === 0) {
      if (!takesValue(words[i - 1], command)) return `there is no berth ${words.slice(0, i + 1).join(' ')}`;
    } else if (!takesValue(words[i - 1], command)) position += 1;
  }
  const most = command.registeredArguments.some(({ variadic }) => variadic)
    ? Infinity
    : command.registeredArguments.length;
  return position > most ? `${command.name()} takes ${most} arguments: ${words.join(' ')}` : '';
}

function takesValue(before: string | undefined, command: Command): boolean {
  const option = [...command.options, ...program.options].find(
    ({ short, long }) => short === before || long === before,
  );
  return option?.required === true;
}

/** Keys as `table.key`, which documents name. */
function keysIn(code: string): string[] {
  return [...code.matchAll(/(?<![\w./-])([a-z]+)\.([a-z]+(?:_[a-z]+)*)(?![\w./(-])/g)].flatMap(([key, table = '']) =>
    Object.hasOwn(TABLES, table) ? [key] : [],
  );
}

/** Files whose names look like keys. */
const NO_KEYS: ReadonlySet<string> = new Set(['image.json', 'log.txt']);

describe('documents', () => {
  test('are looked at: what they say is found, and what would be wrong in them too', () => {
    assert.ok(documents.length >= 12);
    const calls = documents.flatMap((file) => typedIn(read(file)).flatMap(callsIn));
    assert.ok(calls.length > 60, String(calls.length));
    assert.deepEqual(callsIn('dir=$(berth image mount app:v1)        # or berth x'), [['image', 'mount', 'app:v1']]);
    assert.deepEqual(['image', 'load', 'FILE', '--nmae', 'x'].length, 5);
    assert.equal(problemOf(['image', 'load', 'FILE', '--nmae', 'x']), 'load has no --nmae');
    assert.equal(problemOf(['image', 'lod', 'FILE']), 'there is no berth image lod');
    assert.equal(problemOf(['image', 'load', 'FILE', 'OTHER']), 'load takes 1 arguments: image load FILE OTHER');
    assert.equal(problemOf(['--socket', 'unix:///x', 'exec', 'web', '--', 'sh', '-c', 'x']), '');
  });

  for (const file of documents) {
    test(`${file}: every command of berth and each of its flags is there`, () => {
      const problems = typedIn(read(file)).flatMap((line) =>
        callsIn(line)
          .map(problemOf)
          .filter((problem) => problem !== '')
          .map((problem) => `${problem} (${line})`),
      );
      assert.deepEqual(problems, []);
    });

    test(`${file}: links lead somewhere`, () => {
      const dead = [...read(file).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => {
        if (/^[a-z]+:/.test(target)) return [];
        const [path = '', anchor] = target.split('#');
        const place = path === '' ? join(top, file) : join(top, dirname(file), path);
        if (!existsSync(place)) return [target];
        return anchor === undefined || headingsOf(readFileSync(place, 'utf8')).includes(anchor) ? [] : [target];
      });
      assert.deepEqual(dead, []);
    });

    test(`${file}: every script of npm and every metric is there`, () => {
      const scripts = [...read(file).matchAll(/\bnpm run ([\w:-]+)/g)].map(([, name = '']) => name);
      assert.deepEqual(
        scripts.filter((name) => !Object.hasOwn(SCRIPTS, name)),
        [],
      );
      const series = [...read(file).matchAll(/\bberth_[a-z][a-z0-9_]*[a-z0-9](?![\w*])/g)].map(([name]) => name);
      const metrics = series.map((name) => (METRICS.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '')));
      assert.deepEqual(
        metrics.filter((name) => !METRICS.has(name)),
        [],
      );
    });

    // Of migrate.md the second column counts, below: the first has the keys of the others.
    if (file === 'docs/migrate.md') continue;
    test(`${file}: every configuration key is there`, () => {
      const keys = typedIn(read(file)).flatMap(keysIn);
      const unknown = keys.filter((key) => {
        const [table = '', name = ''] = key.split('.');
        if (NO_KEYS.has(key) || (table === 'runtime' && name === 'handlers')) return false;
        return !Object.hasOwn((TABLES as Readonly<Record<string, object>>)[table] ?? {}, name);
      });
      assert.deepEqual(unknown, []);
    });
  }

  test('what the alerts tell to do is a command of berth', () => {
    const alerts = read('deploy/prometheus/alerts.yml');
    const calls = [...alerts.matchAll(/\bberth ((?:[a-z]+ ?)+)/g)].map(([, words = '']) => words.trim().split(' '));
    assert.ok(calls.length > 5);
    for (const [first = '', second = ''] of calls) {
      const command = program.commands.find((candidate) => candidate.name() === first);
      assert.ok(command, `there is no berth ${first}`);
      if (command.commands.length > 0)
        assert.ok(
          command.commands.some((inner) => inner.name() === second),
          `there is no berth ${first} ${second}`,
        );
    }
  });

  test('migrate.md: what Berth has for each key of the others is a key of Berth', () => {
    const known = new Set([
      ...Object.keys(TOP_KEYS),
      ...Object.keys(HANDLER_KEYS),
      ...Object.values(TABLES).flatMap((keys) => Object.keys(keys)),
    ]);
    const rows = [...read('docs/migrate.md').matchAll(/^\|[^|]*\|([^|]*)\|$/gm)].map(([, cell = '']) => cell);
    assert.ok(rows.length > 40);
    const names = rows.flatMap((cell) => [...cell.matchAll(/`([a-z]+(?:\.[a-z_]+|_[a-z_]+))(?: = [^`]*)?`/g)]);
    assert.ok(names.length > 35);
    const unknown = names.map(([, name = '']) => name.split('.').at(-1) ?? '').filter((name) => !known.has(name));
    assert.deepEqual(
      unknown.filter((name) => !['toml', 'conf'].includes(name)),
      [],
    );
  });
});

function read(file: string): string {
  return readFileSync(join(top, file), 'utf8');
}

/** Anchors of headings, as forges make them. */
function headingsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\s-]/g, '')
      .replaceAll(/\s/g, '-'),
  );
}
