import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { allKeys, compareConfigs, inForce, renderReloadTable } from './compare-configs.ts';
import { type Config, loadConfig } from './load-config.ts';
import type { KeySpec } from './schema.ts';

/** Items of lists, by their kind. */
const LISTED: Readonly<Record<string, string>> = { ulimit: 'nofile=1:2', setting: 'A=B', name: 'CHOWN' };

/** Another value than the default that the key's kind allows. */
function otherValue({ kind, defaultValue }: KeySpec): string {
  switch (kind.type) {
    case 'switch':
      return String(defaultValue !== true);
    case 'count':
      return String(defaultValue === kind.max ? kind.min : kind.max);
    case 'word':
      return JSON.stringify(kind.words.find((word) => word !== defaultValue));
    case 'list':
      return `["${LISTED[kind.of.type] ?? '/other'}"]`;
    case 'duration':
      return '"7s"';
    case 'address':
      return '"127.0.0.1:7777"';
    case 'socket':
      return '"unix:///other.sock"';
    default:
      return kind.type === 'name' ? '"crun"' : '"/other"';
  }
}

function load(text: string): Config {
  const folder = mkdtempSync(join(tmpdir(), 'berth-config-'));
  try {
    const file = join(folder, 'berth.toml');
    writeFileSync(file, text);
    return { ...loadConfig({ file }), sources: [] };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('every key is either taken over or waits for a restart, and keeps its value until then', () => {
  const [running, lines] = [load(''), new Map<string, string[]>()];
  for (const [path, spec] of allKeys()) {
    if (path.includes('*')) continue;
    const [key = '', table = ''] = path.split('.').reverse();
    lines.set(table, [...(lines.get(table) ?? []), `${key} = ${otherValue(spec)}`]);
  }
  const next = load(
    [...lines].map(([table, own]) => (table === '' ? own : [`[${table}]`, ...own]).join('\n')).join('\n'),
  );
  const changes = compareConfigs(running, next);
  const keys = allKeys().filter(([path]) => !path.includes('*'));
  assert.deepEqual([...changes.live, ...changes.waiting].sort(), keys.map(([path]) => path).sort());
  assert.deepEqual(
    changes.waiting,
    keys.filter(([, { reload }]) => reload === 'restart').map(([path]) => path),
  );
  const now = inForce(running, next);
  assert.deepEqual(compareConfigs(running, now), { live: changes.live, waiting: [] });
  assert.deepEqual(compareConfigs(now, next), { live: [], waiting: changes.waiting });
});

test('a handler that comes, goes or changes is named', () => {
  const [one, two] = [
    load(''),
    load('[runtime.handlers.kata]\npath = "kata"\n[runtime.handlers.runc]\npath = "/runc"\n'),
  ];
  const changed = ['runtime.handlers.runc', 'runtime.handlers.kata'].sort();
  assert.deepEqual([...compareConfigs(one, two).live].sort(), changed);
  assert.deepEqual([...compareConfigs(two, one).live].sort(), changed);
  assert.deepEqual(compareConfigs(two, two), { live: [], waiting: [] });
});

test('docs/operations.md tells of every key whether it needs a restart', () => {
  const text = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  assert.ok(text.includes(`\n${renderReloadTable()}\n`), 'run: npm run generate');
});
