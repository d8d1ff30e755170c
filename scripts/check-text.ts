/**
 * Fails when a document names a path or npm script that is not there, and when a file holds what
 * no file here may hold: escapes from the type checker and the linter, unfinished work, single tests switched on, paths
 * of the machine it was written on, download hosts and gaps in the
 * lockfile, SQL outside its room.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';

/** What no line may hold. `name` is what is said about it. */
interface Forbidden {
  readonly name: string;
  readonly pattern: RegExp;
  /** Files that it is looked for in. */
  readonly files: RegExp;
  readonly not?: RegExp;
}

const code = /\.(ts|c|cjs|sh)$|^bin\/|^scripts\//;
const self = /^scripts\/check-text\.ts$/;
const generated = /^(proto\/gen|test\/fixtures)\//;

const forbidden: readonly Forbidden[] = [
  {
    name: 'an escape from the type checker',
    pattern: /@ts-(ignore|nocheck|expect-error)/,
    files: /\.ts$/,
    not: generated,
  },
  { name: 'an escape from the linter', pattern: /biome-ignore|eslint-disable/, files: /\.(ts|cjs)$/ },
  { name: 'unfinished work', pattern: /\b(TODO|FIXME|XXX)\b/, files: code },
  { name: 'a test switched on alone', pattern: /\b(test|it|describe)\.only\(|\bonly: true/, files: /\.test\.ts$/ },
  { name: 'a download host', pattern: /"resolved": "http/, files: /^package-lock\.json$/ },
  {
    name: 'SQL outside src/store',
    pattern: /['"`]\s*(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s.+\sSET|DELETE\s+FROM|CREATE\s+TABLE)\s/,
    files: /^src\//,
    not: /^src\/store\//,
  },
];

const complaints: string[] = [];

function listFiles(): string[] {
  const git = ['ls-files', '--cached', '--others', '--exclude-standard', '-z'];
  const names = execFileSync('git', git, { encoding: 'utf8', maxBuffer: 16 << 20, timeout: 30_000 }).split('\0');
  return names.filter((name) => name !== '' && existsSync(name) && !self.test(name));
}

/** Where this checkout is, and the home of whoever works here: no file may depend on either. */
function machinePaths(): string[] {
  const home = homedir();
  return [process.cwd(), ...(home.split('/').length > 2 ? [home] : [])];
}

function checkLines(file: string, text: string): void {
  const rules = forbidden.filter((rule) => rule.files.test(file) && !rule.not?.test(file));
  const paths = machinePaths();
  for (const [index, line] of text.split('\n').entries()) {
    for (const rule of rules) {
      if (rule.pattern.test(line)) complaints.push(`${file}:${index + 1}: ${rule.name}: ${line.trim().slice(0, 100)}`);
    }
    for (const path of paths) {
      if (line.includes(path)) complaints.push(`${file}:${index + 1}: a path of this machine: ${path}`);
    }
  }
}

/** Looks at what stands in backticks or links: paths of this repository, `npm run` scripts. */
function checkDocument(file: string, text: string, scripts: ReadonlySet<string>): void {
  const named = [...text.matchAll(/`([^`\n]+)`|\]\(([^)\s#]+)[^)]*\)/g)].map((match) => match[1] ?? match[2] ?? '');
  for (const name of named) {
    const path = name.replace(/^\.\//, '').replace(/:\d+$/, '');
    const looksLikePath = /^(src|test|scripts|bin|proto|native|bench|deploy|docs|\.ci)\/[\w./*{},-]*$/.test(path);
    const looksLikeFile = /^[A-Z][A-Z_-]+\.md$|^(package|biome|knip|tsconfig[\w.]*)\.json$|^lefthook\.yml$/.test(path);
    if ((looksLikePath || looksLikeFile) && globSync(path).length === 0) {
      complaints.push(`${file}: names ${path}, which is not there`);
    }
  }
  for (const match of text.matchAll(/\bnpm run ([\w:-]+)/g)) {
    const script = match[1] ?? '';
    if (!scripts.has(script)) complaints.push(`${file}: names npm run ${script}, which package.json does not have`);
  }
}

/**
 * `npm ci` refuses a lockfile without the packages of other platforms. npm leaves them out when it cannot reach them
 * at the time the lockfile is written; they need entries with version, os and cpu.
 */
function checkLockfile(): void {
  const lock: { packages: Record<string, { optionalDependencies?: Record<string, string> }> } = JSON.parse(
    readFileSync('package-lock.json', 'utf8'),
  );
  const locked = new Set(Object.keys(lock.packages).map((path) => path.slice(path.lastIndexOf('node_modules/') + 13)));
  for (const { optionalDependencies = {} } of Object.values(lock.packages)) {
    for (const name of Object.keys(optionalDependencies)) {
      if (!locked.has(name)) complaints.push(`package-lock.json: the optional package ${name} has no entry`);
    }
  }
}

const { scripts }: { scripts: Record<string, string> } = JSON.parse(readFileSync('package.json', 'utf8'));
for (const [name, command] of Object.entries(scripts)) {
  const program = command.split(' ')[0] ?? '';
  if (program.startsWith('scripts/') && !existsSync(program)) {
    complaints.push(`package.json: ${name} runs ${program}, which is not there`);
  }
}

checkLockfile();
const files = listFiles();
if (files.length < 20) throw new Error(`git lists ${files.length} files only`);
for (const file of files) {
  const bytes = readFileSync(file);
  if (bytes.includes(0)) continue;
  const text = bytes.toString('utf8');
  checkLines(file, text);
  if (file.endsWith('.md')) checkDocument(file, text, new Set(Object.keys(scripts)));
}

for (const complaint of complaints) console.error(complaint);
console.log(`${files.length} files, ${complaints.length} complaints`);
process.exitCode = complaints.length === 0 ? 0 : 1;
