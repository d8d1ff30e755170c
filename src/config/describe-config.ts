import { parse } from 'smol-toml';

import { formatDuration, toToml } from './check-value.ts';
import type { Config } from './load-config.ts';
import { HANDLER_KEYS, type KeySpec, TABLES, TOP_KEYS, type TomlValue } from './schema.ts';

/** The configuration in force as TOML, every key written out. */
export function describeConfig(config: Config): string {
  const from = config.sources.length > 0 ? config.sources.join(', ') : 'no file: all defaults';
  const lines = [`# from ${from}`];
  for (const [key, spec] of Object.entries(TOP_KEYS)) lines.push(assignment(key, valueAt(config, key, spec)));
  for (const [table, keys] of Object.entries(TABLES)) {
    lines.push('', `[${table}]`);
    for (const [key, spec] of Object.entries<KeySpec>(keys))
      lines.push(assignment(key, valueAt(config, `${table}.${key}`, spec)));
  }
  for (const name of Object.keys(config.runtime.handlers)) {
    lines.push('', `[runtime.handlers.${name}]`);
    for (const [key, spec] of Object.entries<KeySpec>(HANDLER_KEYS))
      lines.push(assignment(key, valueAt(config, `runtime.handlers.${name}.${key}`, spec)));
  }
  return `${lines.join('\n')}\n`;
}

/** The same as an object for programs, with the keys of the file. */
export function configObject(config: Config): Record<string, unknown> {
  return parse(describeConfig(config));
}

/** deploy/berth.toml: every key with what it is for, its default commented out. */
export function renderDefaultFile(): string {
  const entry = (key: string, { help, defaultValue, reload }: Omit<KeySpec, 'kind'>): string[] => [
    ...wrapText(`${help}${reload === 'restart' ? ' Needs a restart.' : ''}`, 110).map((line) => `# ${line}`),
    `# ${assignment(key, defaultValue)}`,
    '',
  ];
  const lines = [
    '# The configuration of berthd. Each key is shown with its default; remove the # to change it.',
    '# Drop-ins beside this file, in berth.toml.d/*.toml, are read after it in lexical order.',
    '# berth config check shows what is in force. Changes are taken over at once, but for keys that need a restart.',
    '',
  ];
  for (const [key, spec] of Object.entries(TOP_KEYS)) lines.push(...entry(key, spec));
  for (const [table, keys] of Object.entries(TABLES)) {
    lines.push(`[${table}]`, '');
    for (const [key, spec] of Object.entries(keys)) lines.push(...entry(key, spec));
  }
  lines.push(
    '# Runtime handlers: what a RuntimeClass names. crun and runc are there without being configured.',
    '# [runtime.handlers.example]',
    ...Object.entries({ ...HANDLER_KEYS, path: { ...HANDLER_KEYS.path, defaultValue: '/usr/bin/example' } }).flatMap(
      ([key, spec]) => entry(key, spec),
    ),
  );
  return `${lines.join('\n').trimEnd()}\n`;
}

function assignment(key: string, value: TomlValue): string {
  return `${key} = ${toToml(value)}`;
}

/** The value of a key, as the file would have it. */
export function valueAt(config: Config, path: string, { kind }: KeySpec): TomlValue {
  const isDuration = kind.type === 'duration';
  let value: unknown = config;
  for (const part of (isDuration ? `${path}_ms` : path).split('.')) {
    const name = part.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    value =
      typeof value === 'object' && value !== null
        ? Object.entries(value).find(([own]) => own === name)?.[1]
        : undefined;
  }
  // The test that goes over all keys fails for one that Config does not have.
  return isDuration ? formatDuration(value as number) : (value as TomlValue);
}

function wrapText(text: string, width: number): string[] {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1) ?? '';
    if (line !== '' && line.length + word.length + 1 > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}
