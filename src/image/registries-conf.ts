/**
 * Where registries are: containers-registries.conf(5), version 2, as Podman and CRI-O have it, with its drop-in folder.
 * The files are shared with those tools, so keys that Berth does not use are left alone.
 */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import * as v from 'valibot';

import { BerthError, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { parseToml } from '../config/parse-toml.ts';
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
  /** `host[:port][/path]`, or `*.domain`. */
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
}

/** What holds when no file says anything. */
export const NO_RULES: RegistryRules = {
  registries: [],
  searchRegistries: [],
  aliases: new Map(),
  // Unlike containers-registries.conf(5), as CRI-O does: nobody is there who could choose.
  shortNameMode: 'enforcing',
};

const place = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9[\]][A-Za-z0-9._:/[\]-]*[A-Za-z0-9\]]$|^[A-Za-z0-9]$/, 'is not host[:port][/path]'),
);
const mirrorSchema = v.object({
  location: place,
  insecure: v.optional(v.boolean(), false),
  'pull-from-mirror': v.optional(v.picklist(['', 'all', 'digest-only', 'tag-only']), 'all'),
});
const registrySchema = v.object({
  prefix: v.optional(v.string(), ''),
  location: v.optional(v.union([v.literal(''), place]), ''),
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
  };
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
  if (!prefix.startsWith('*.') && !v.is(place, prefix)) throw fail('prefix is neither host[:port][/path] nor *.domain');
  if (prefix.startsWith('*.') && !/^\*\.[A-Za-z0-9.-]+(?::[0-9]+)?$/.test(prefix)) {
    throw fail('a wildcard prefix is *.domain and no more');
  }
  const tag = tagOf(prefix);
  const tagged = tag !== undefined && prefix.includes('/');
  if (tagged && tagOf(table.location || prefix) !== tag) throw fail('has a tag, and location has not the same');
  const digestOnly = table['mirror-by-digest-only'];
  const mirrors = table.mirror.map((mirror): MirrorRule => {
    const own = mirror['pull-from-mirror'] || 'all';
    if (digestOnly && own !== 'all') throw fail('mirror-by-digest-only and pull-from-mirror exclude each other');
    return {
      location: tagged ? withoutTag(mirror.location, tag) : mirror.location,
      insecure: mirror.insecure,
      pullFromMirror: digestOnly ? 'digest-only' : own,
    };
  });
  const whole = table.location === '' && !prefix.startsWith('*.') ? prefix : table.location;
  const location = tagged ? withoutTag(whole, tag) : whole;
  return { prefix, location, insecure: table.insecure, blocked: table.blocked, mirrors, file };
}

function withoutTag(location: string, tag: string): string {
  return location.endsWith(`:${tag}`) ? location.slice(0, -tag.length - 1) : location;
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
  return { registries: [...registries.values()], searchRegistries, aliases, shortNameMode };
}

/** The rules on disk, read again when a file has changed. */
export class RegistriesConf {
  readonly #file: string;
  readonly #dir: string;
  readonly #rules: LastGood<RegistryRules>;

  /** `file` and `dir` may be missing on disk, or empty strings for "none". */
  constructor(options: { readonly file: string; readonly dir: string; readonly log: Logger }) {
    this.#file = options.file;
    this.#dir = options.dir;
    this.#rules = new LastGood('registries.conf', options.log);
  }

  /** What was understood last; nothing before the first `load`. */
  get current(): RegistryRules {
    return this.#rules.current ?? NO_RULES;
  }

  /** Why the files as they are now do not hold; undefined when they do. */
  get problem(): string | undefined {
    return this.#rules.problem;
  }

  /**
   * The rules as the files have them now, or had them when they could last be understood. Throws `invalid` naming the
   * file, the key and what is wrong when they never could.
   */
  async load(): Promise<RegistryRules> {
    return await this.#rules.load(await this.#paths(), (files) =>
      mergeRules(files.map(({ path, text }) => parseRegistriesFile(text, path))),
    );
  }

  async #paths(): Promise<string[]> {
    const names = this.#dir === '' ? [] : await readdir(this.#dir).catch(missingIsNone(this.#dir));
    const dropIns = names.filter((name) => name.endsWith('.conf')).sort();
    return [...(this.#file === '' ? [] : [this.#file]), ...dropIns.map((name) => join(this.#dir, name))];
  }
}

function missingIsNone(path: string): (err: unknown) => string[] {
  return (err) => {
    if (isMissing(err)) return [];
    throw wrap(`read ${path}`, err);
  };
}
