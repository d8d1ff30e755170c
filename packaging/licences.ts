import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { readPackage } from './bundle.ts';

/** Packages without a licence file of their own, and those of the same authors that have it. */
const SAME_AUTHORS: readonly (readonly [name: RegExp, other: string])[] = [
  [/^@koromix\/koffi-/, 'koffi'],
  [/^@protobufjs\//, 'protobufjs'],
];

/** Under the Apache License, with parts under another one that only the source file tells. */
const IN_SOURCE: Readonly<Record<string, string>> = { '@bufbuild/protobuf': 'dist/esm/wire/varint.js' };

const APACHE =
  'Licensed under the Apache License, version 2.0: /usr/share/common-licenses/Apache-2.0 on Debian systems.';

/**
 * The copyright file of the package: Berth's own terms, then the licence of everything that is in it, whole, as it
 * demands. Throws for a package whose licence is not there.
 */
export function renderCopyright(top: string, packages: readonly string[]): string {
  const parts = [
    'Berth is a Kubernetes container runtime in TypeScript.',
    '',
    'Berth is licensed under the Apache License, version 2.0. On Debian systems it is in',
    '/usr/share/common-licenses/Apache-2.0.',
    '',
    'This package holds other programs too, unchanged but for symbols for debuggers that were left out and for code that',
    'was put into fewer files. Their names, versions and licences follow.',
  ];
  for (const name of packages) {
    const folder = join(top, 'node_modules', name);
    const { version, license } = readPackage(folder);
    parts.push('', '-'.repeat(100), `${name} ${version}${license === undefined ? '' : ` (${license})`}`, '');
    parts.push(readLicence(top, name));
  }
  return `${parts.map((line) => line.trimEnd()).join('\n')}\n`;
}

function readLicence(top: string, name: string): string {
  const folder = join(top, 'node_modules', name);
  const file = readdirSync(folder).find((entry) => /^((un)?licen[cs]e|copying)(\.(md|txt))?$/i.test(entry));
  if (file !== undefined) return readFileSync(join(folder, file), 'utf8').replaceAll('\r\n', '\n');
  const source = IN_SOURCE[name];
  if (source !== undefined) return `${APACHE}\n\n${readHeader(join(folder, source))}`;
  const other = SAME_AUTHORS.find(([pattern]) => pattern.test(name))?.[1];
  if (other === undefined) throw new Error(`${name} has no licence file`);
  return readLicence(top, other);
}

/** The comment lines with which a source file begins. */
function readHeader(file: string): string {
  const lines = readFileSync(file, 'utf8').split('\n');
  const end = lines.findIndex((line) => !line.startsWith('//'));
  if (end <= 0) throw new Error(`${file} does not begin with its licence`);
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^\/\/ ?/, ''))
    .join('\n');
}
