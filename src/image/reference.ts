/**
 * Image references, normalised once in the way that Docker made customary: `busybox` is
 * `docker.io/library/busybox:latest`. The grammar is that of the distribution project's reference documentation.
 */

import { invalid } from '../base/errors.ts';
import { type Digest, isDigest } from './digest.ts';

declare const brand: unique symbol;

/** A normalised reference; made only by `parseReference`. */
export interface ImageReference {
  readonly [brand]: 'ImageReference';
  /** Host and port as they were written, `docker.io` when none was. */
  readonly registry: string;
  /** Path within the registry: `library/busybox`. */
  readonly path: string;
  /** Undefined only when there is a digest. */
  readonly tag: string | undefined;
  /** When set it decides what is pulled; a tag beside it is only a remark. */
  readonly digest: Digest | undefined;
}

/** The registry of references that name none. */
export const DEFAULT_REGISTRY = 'docker.io';

const FIELD = 'image.image';
const MAX_REPOSITORY_LENGTH = 255;
const HOST_LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?';
const HOST = new RegExp(`^(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[[0-9A-Fa-f:]+\\])(?::([0-9]{1,5}))?$`);
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

/** Parses and normalises a reference. Throws `invalid` for the request's `field`, saying what is wrong with it. */
export function parseReference(text: string, field: string = FIELD): ImageReference {
  if (text === '') throw invalid(field, 'is empty');
  // No valid reference is longer: repository, tag, sha512 digest and the marks between them.
  if (text.length > MAX_REPOSITORY_LENGTH + 128 + 136 + 2) throw invalid(field, 'is too long for an image reference');
  const fail = (problem: string): never => {
    throw invalid(field, `"${text}" is not an image reference: ${problem}`);
  };
  const [beforeDigest, digestText] = splitOnce(text, text.indexOf('@'));
  if (digestText !== undefined && !isDigest(digestText)) fail(`"${digestText}" is not a sha256 or sha512 digest`);
  const tag = tagOf(beforeDigest);
  const name = tag === undefined ? beforeDigest : beforeDigest.slice(0, -tag.length - 1);
  if (tag !== undefined && !TAG.test(tag)) fail(`"${tag}" is not a tag`);
  if (/^[0-9a-f]{64}$/.test(name)) fail('64 hex digits are an image id, not a name');
  const { registry, path } = splitRegistry(name);
  const port = HOST.exec(registry);
  if (!port) fail(`"${registry}" is not a registry host`);
  if (port?.[1] !== undefined && Number(port[1]) > 65535) fail(`port ${port[1]} is out of range`);
  if (path === '') fail('it has no repository name');
  for (const component of path.split('/')) {
    if (/[A-Z]/.test(component)) fail('the repository name must be lower case');
    if (!PATH_COMPONENT.test(component)) fail(`"${component}" is not a repository name component`);
  }
  if (registry.length + 1 + path.length > MAX_REPOSITORY_LENGTH) {
    fail(`the repository name is longer than ${MAX_REPOSITORY_LENGTH} characters`);
  }
  const digest = digestText as Digest | undefined;
  return { registry, path, tag: tag ?? (digest ? undefined : 'latest'), digest } as ImageReference;
}

/** The tag as it stands in the text of a reference without a digest; undefined when there is none. */
export function tagOf(text: string): string | undefined {
  const colon = text.lastIndexOf(':');
  return colon > text.lastIndexOf('/') ? text.slice(colon + 1) : undefined;
}

function splitOnce(text: string, at: number): [string, string | undefined] {
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

function splitRegistry(name: string): { registry: string; path: string } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  if (slash < 0 || !looksLikeHost(first)) {
    return { registry: DEFAULT_REGISTRY, path: slash < 0 ? `library/${name}` : name };
  }
  const registry = first === 'index.docker.io' ? DEFAULT_REGISTRY : first;
  const path = name.slice(slash + 1);
  // "docker.io/busybox" is the official image too.
  const official = registry === DEFAULT_REGISTRY && path !== '' && !path.includes('/');
  return { registry, path: official ? `library/${path}` : path };
}

function looksLikeHost(first: string): boolean {
  return first === 'localhost' || /[.:]/.test(first) || first !== first.toLowerCase();
}

/** True when the text names no registry, so that short-name aliases and search registries decide which one it is. */
export function isShortName(text: string): boolean {
  const slash = text.indexOf('/');
  return slash < 0 || !looksLikeHost(text.slice(0, slash));
}

/** `registry/path`, without tag and digest. */
export function repositoryOf(reference: ImageReference): string {
  return `${reference.registry}/${reference.path}`;
}

/** The whole normalised reference. */
export function formatReference(reference: ImageReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  return `${repositoryOf(reference)}${tag}${reference.digest === undefined ? '' : `@${reference.digest}`}`;
}

/** What an image is listed under: `repo@digest` when there is a digest, or else `repo:tag`. */
export function recordedName(reference: ImageReference): string {
  const suffix = reference.digest === undefined ? `:${reference.tag ?? 'latest'}` : `@${reference.digest}`;
  return `${repositoryOf(reference)}${suffix}`;
}

/** True for hosts that only this machine can answer for: `localhost`, 127.0.0.0/8 and [::1], with or without port. */
export function isLoopbackHost(host: string): boolean {
  const name = host.replace(/:[0-9]+$/, '');
  return name === 'localhost' || name === '[::1]' || /^127(?:\.[0-9]{1,3}){3}$/.test(name);
}
