/**
 * Where registries are: containers-registries.conf(5), version 2, as Podman and CRI-O have it, with its drop-in folder.
 * The files are shared with those tools, so keys that Berth does not follow are no error; they are told.
 */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import * as v from 'valibot';

import { BerthError, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { parseToml } from '../config/parse-toml.ts';
import { isDigest } from './digest.ts';
import { describeIgnored, type IgnoredKey, ignoredKeys } from './ignored-keys.ts';
import { isMissing, LastGood } from './last-good.ts';
import { isShortName, parseReference, tagOf } from './reference.ts';

/** Which pulls a mirror serves. */
export type PullFromMirror = 'all' | 'digest-only' | 'tag-only';

/** A place to ask before the registry itself. */
export interface MirrorRule {
  readonly location: string;
  readonly insecure: boolean;
  readonly pullFromMirror: PullFromMirror;
}

/** One `[[registry]]` table. */
export interface RegistryRule {
  /** `host[:port][/path]`, which may end in a tag or a digest when it is a whole repository; or `*.domain`. */
  readonly prefix: string;
  /** Replaces the prefix; empty for a wildcard rule that leaves the host as it is. */
  readonly location: string;
  readonly insecure: boolean;
  readonly blocked: boolean;
  readonly mirrors: readonly MirrorRule[];
  /** The file that says so. */
  readonly file: string;
}

/** What becomes of a short name that several search registries could have. */
export type ShortNameMode = 'enforcing' | 'permissive' | 'disabled';

/** All files put together. */
export interface RegistryRules {
  readonly registries: readonly RegistryRule[];
  readonly searchRegistries: readonly string[];
  /** Short name to `registry/path`. */
  readonly aliases: ReadonlyMap<string, string>;
  /**
   * enforcing: it is refused, since there is nobody to ask. permissive, disabled: the registries are asked in turn.
   */
  readonly shortNameMode: ShortNameMode;
  /** What the files say, and Berth does not do. */
  readonly ignored: readonly IgnoredKey[];
}

/** What holds when no file says anything. */
export const NO_RULES: RegistryRules = {
  registries: [],
  searchRegistries: [],
  aliases: new Map(),
  // Unlike containers-registries.conf(5), as CRI-O does: nobody is there who could choose.
  shortNameMode: 'enforcing',
  ignored: [],
};

const place = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9[\]][A-Za-z0-9._:/[\]-]*[A-Za-z0-9\]]$|^[A-Za-z0-9]$/, 'is not host[:port][/path]'),
);
const placeOrImage = v.pipe(
  v.string(),
  v.check((name) => v.is(place, withoutSuffix(name, suffixOf(name))), 'is not host[:port][/path]'),
);
const mirrorSchema = v.object({
  location: placeOrImage,
  insecure: v.optional(v.boolean(), false),
  'pull-from-mirror': v.optional(v.picklist(['', 'all', 'digest-only', 'tag-only']), 'all'),
});
const registrySchema = v.object({
  prefix: v.optional(v.string(), ''),
  location: v.optional(v.union([v.literal(''), placeOrImage]), ''),
  insecure: v.optional(v.boolean(), false),
  blocked: v.optional(v.boolean(), false),
  'mirror-by-digest-only': v.optional(v.boolean(), false),
  mirror: v.optional(v.array(mirrorSchema), []),
});
const fileSchema = v.object({
  'unqualified-search-registries': v.optional(v.array(place)),
  registry: v.optional(v.array(registrySchema), []),
  aliases: v.optional(v.record(v.string(), v.string()), {}),
  'short-name-mode': v.optional(v.picklist(['', 'enforcing', 'permissive', 'disabled']), ''),
});
// Version 1 has one table per purpose where version 2 has an array of registries.
const v1Schema = v.object({ registries: v.record(v.string(), v.unknown()) });

interface FileRules {
  readonly registries: readonly RegistryRule[];
  readonly searchRegistries: readonly string[] | undefined;
  readonly aliases: Readonly<Record<string, string>>;
  readonly shortNameMode: ShortNameMode | '';
  readonly ignored: readonly IgnoredKey[];
}

/** Parses one file. Throws `invalid` naming `file` and the key (or, for broken TOML, the line). */
export function parseRegistriesFile(text: string, file: string): FileRules {
  const toml = parseToml(file, text);
  if (v.is(v1Schema, toml)) {
    throw new BerthError(
      'invalid',
      `${file} has the version 1 format ([registries.search] and the like), which is no longer read; ` +
        'write it as version 2, with [[registry]] tables',
    );
  }
  const result = v.safeParse(fileSchema, toml);
  if (!result.success) {
    const issue = result.issues[0];
    throw new BerthError('invalid', `${file}: ${v.getDotPath(issue) ?? 'top level'}: ${issue.message}`);
  }
  return {
    registries: result.output.registry.map((table) => registryRule(table, file)),
    searchRegistries: result.output['unqualified-search-registries'],
    aliases: checkedAliases(result.output.aliases, file),
    shortNameMode: result.output['short-name-mode'],
    ignored: ignoredIn(toml, file),
  };
}

function ignoredIn(toml: Readonly<Record<string, unknown>>, file: string): IgnoredKey[] {
  const registries: readonly unknown[] = Array.isArray(toml['registry']) ? toml['registry'] : [];
  return [
    ...ignoredKeys(file, toml, Object.keys(fileSchema.entries)),
    ...registries.flatMap((table) => {
      const { prefix, location, mirror } = Object(table) as Record<string, unknown>;
      const where = `registry "${String(prefix ?? location)}"`;
      const mirrors: readonly unknown[] = Array.isArray(mirror) ? mirror : [];
      return [
        ...ignoredKeys(file, table, Object.keys(registrySchema.entries), where),
        ...mirrors.flatMap((one) => ignoredKeys(file, one, Object.keys(mirrorSchema.entries), `${where}: mirror`)),
      ];
    }),
  ];
}

/** An alias is a name without registry, tag and digest, and stands for one with a registry; empty takes it away. */
function checkedAliases(aliases: Readonly<Record<string, string>>, file: string): Readonly<Record<string, string>> {
  for (const [name, target] of Object.entries(aliases)) {
    const fail = (problem: string): BerthError => new BerthError('invalid', `${file}: aliases."${name}": ${problem}`);
    if (!isShortName(name) || /[:@]/.test(name)) throw fail('a short name has no registry, tag or digest');
    if (target === '') continue;
    if (isShortName(target)) throw fail(`"${target}" names no registry`);
    if (target.includes('@') || tagOf(target) !== undefined) throw fail(`"${target}" has a tag or digest`);
    parseReference(target, `${file}: aliases."${name}"`);
  }
  return aliases;
}

function registryRule(table: v.InferOutput<typeof registrySchema>, file: string): RegistryRule {
  const prefix = table.prefix || table.location;
  const fail = (problem: string): BerthError => new BerthError('invalid', `${file}: registry "${prefix}": ${problem}`);
  if (prefix === '') throw fail('needs a prefix or a location');
  const suffix = suffixOf(prefix);
  if (!prefix.startsWith('*.') && !v.is(place, withoutSuffix(prefix, suffix))) {
    throw fail('prefix is neither host[:port][/path] nor *.domain');
  }
  if (prefix.startsWith('*.') && !/^\*\.[A-Za-z0-9.-]+(?::[0-9]+)?$/.test(prefix)) {
    throw fail('a wildcard prefix is *.domain and no more');
  }
  if (suffix !== '' && suffixOf(table.location || prefix) !== suffix) {
    throw fail(`has a ${suffix.startsWith('@') ? 'digest' : 'tag'}, and location has not the same`);
  }
  const digestOnly = table['mirror-by-digest-only'];
  const mirrors = table.mirror.map((mirror): MirrorRule => {
    const own = mirror['pull-from-mirror'] || 'all';
    if (digestOnly && own !== 'all') throw fail('mirror-by-digest-only and pull-from-mirror exclude each other');
    return {
      location: withoutSuffix(mirror.location, suffix),
      insecure: mirror.insecure,
      pullFromMirror: digestOnly ? 'digest-only' : own,
    };
  });
  const whole = table.location === '' && !prefix.startsWith('*.') ? prefix : table.location;
  const location = withoutSuffix(whole, suffix);
  return { prefix, location, insecure: table.insecure, blocked: table.blocked, mirrors, file };
}

/** `:tag` or `@digest` at the end of a repository's name; empty when there is none. */
function suffixOf(name: string): string {
  const at = name.indexOf('@');
  if (at >= 0) return isDigest(name.slice(at + 1)) ? name.slice(at) : '';
  const tag = tagOf(name);
  return tag !== undefined && name.includes('/') ? `:${tag}` : '';
}

function withoutSuffix(name: string, suffix: string): string {
  return suffix !== '' && name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
}

/** Lays files over each other, the later one winning: a registry by its prefix, an alias by its name. */
export function mergeRules(files: readonly FileRules[]): RegistryRules {
  const registries = new Map<string, RegistryRule>();
  const aliases = new Map<string, string>();
  let searchRegistries: readonly string[] = [];
  let { shortNameMode } = NO_RULES;
  for (const file of files) {
    for (const rule of file.registries) registries.set(rule.prefix, rule);
    searchRegistries = file.searchRegistries ?? searchRegistries;
    shortNameMode = file.shortNameMode || shortNameMode;
    for (const [name, target] of Object.entries(file.aliases)) {
      // An empty target takes the alias of an earlier file away.
      if (target === '') aliases.delete(name);
      else aliases.set(name, target);
    }
  }
  const ignored = files.flatMap((file) => file.ignored);
  return { registries: [...registries.values()], searchRegistries, aliases, shortNameMode, ignored };
}

/** The rules on disk, read again when a file has changed. */
export class RegistriesConf {
  readonly #file: string;
  readonly #dir: string;
  readonly #aliases: string;
  readonly #log: Logger;
  readonly #rules: LastGood<RegistryRules>;

  /**
   * `file`, `dir` and `aliases`, the file of short names that tools write themselves, may be missing on disk, or empty
   * strings for "none".
   */
  constructor(options: {
    readonly file: string;
    readonly dir: string;
    readonly aliases?: string;
    readonly log: Logger;
  }) {
    this.#file = options.file;
    this.#dir = options.dir;
    this.#aliases = options.aliases ?? '';
    this.#log = options.log;
    this.#rules = new LastGood('registries.conf', options.log);
  }

  /** What was understood last; nothing before the first `load`. */
  get current(): RegistryRules {
    return this.#rules.current ?? NO_RULES;
  }

  /** True when they could be understood once. */
  get isUnderstood(): boolean {
    return this.#rules.current !== undefined;
  }

  /** Why the files as they are now do not hold; undefined when they do. */
  get problem(): string | undefined {
    return this.#rules.problem;
  }

  /** As `problem`, where what the files said before holds in place of what they say now. */
  get heldBack(): string | undefined {
    return this.#rules.heldBack;
  }

  /**
   * The rules as the files have them now, or had them when they could last be understood. Throws `invalid` naming the
   * file, the key and what is wrong when they never could.
   */
  async load(): Promise<RegistryRules> {
    return await this.#rules.load(await this.#paths(), (files) => {
      const rules = mergeRules(files.map(({ path, text }) => this.#parse(text, path)));
      for (const key of rules.ignored) this.#log.warn({ file: key.file }, describeIgnored(key));
      return rules;
    });
  }

  /** Of the file of chosen short names only those count: it is no place for the rest. */
  #parse(text: string, path: string): FileRules {
    const rules = parseRegistriesFile(text, path);
    if (path !== this.#aliases) return rules;
    return { ...rules, registries: [], searchRegistries: undefined, shortNameMode: '' };
  }

  async #paths(): Promise<string[]> {
    const names = this.#dir === '' ? [] : await readdir(this.#dir).catch(missingIsNone(this.#dir));
    const dropIns = names.filter((name) => name.endsWith('.conf')).sort();
    // What somebody has chosen counts before what the files offer, so it comes last.
    return [this.#file, ...dropIns.map((name) => join(this.#dir, name)), this.#aliases].filter((path) => path !== '');
  }
}

function missingIsNone(path: string): (err: unknown) => string[] {
  return (err) => {
    if (isMissing(err)) return [];
    throw wrap(`read ${path}`, err);
  };
}
