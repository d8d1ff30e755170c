/**
 * The JSON documents of an image, checked against what the OCI image spec and Docker's schema 2 say of them. They come
 * from strangers: sizes are capped before parsing, and only known keys are taken over.
 */

import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import { type ArtifactFile, artifactFiles } from './artifact-files.ts';
import { type Digest, isDigest } from './digest.ts';
import { hasManyValues, MAX_JSON_VALUES } from './many-values.ts';
import { documentKind, isForeignLayer, isImageConfig, type LayerCompression, layerCompression } from './media-types.ts';
import type { Platform } from './platform.ts';

/** The largest manifest, index or config that is read, in bytes: the limit that registries have agreed on. */
export const MAX_DOCUMENT_BYTES: number = 4 * 1024 * 1024;

// The kernel takes at most 500 lower layers (fs/overlayfs, OVL_MAX_STACK).
const MAX_LAYERS = 500;

/** Points to a document or blob. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

/** One entry of an index. */
export interface IndexEntry extends Descriptor {
  readonly platform: Platform | undefined;
}

/** An image index or Docker manifest list. */
export interface ImageIndex {
  readonly kind: 'index';
  readonly entries: readonly IndexEntry[];
}

/** One layer of an image, as the manifest tells it. */
export interface LayerDescriptor extends Descriptor {
  readonly compression: LayerCompression;
}

/** The manifest of an image that can be run. */
export interface ImageManifest {
  readonly kind: 'manifest';
  readonly config: Descriptor;
  readonly layers: readonly LayerDescriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** The manifest of an artifact: files that are no root filesystem. OCI image spec, "Guidelines for Artifact Usage". */
export interface ArtifactManifest {
  readonly kind: 'artifact';
  /** Its artifactType, or else the media type of its config. */
  readonly type: string;
  readonly files: readonly ArtifactFile[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** What a container takes from its image. */
export interface ImageConfig {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly exposedPorts: readonly string[];
}

/** Of what has none. */
export const NO_CONFIG: ImageConfig = Object.freeze({
  user: '',
  env: [],
  entrypoint: [],
  cmd: [],
  workingDir: '',
  stopSignal: '',
  volumes: [],
  labels: {},
  exposedPorts: [],
});

/** A whole config document: what containers take, and what the layers must unpack to. */
export interface ConfigDocument {
  readonly config: ImageConfig;
  readonly platform: Platform;
  readonly diffIds: readonly Digest[];
}

const digest = v.custom<Digest>(
  (input) => typeof input === 'string' && isDigest(input),
  'is not a sha256 or sha512 digest',
);
const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const text = v.nullish(v.string(), '');
const strings = v.nullish(v.array(v.string()), []);
const stringMap = v.nullish(v.record(v.string(), v.string()), {});
const keys = v.pipe(v.nullish(v.record(v.string(), v.unknown()), {}), v.transform(Object.keys));

const descriptor = v.object({ mediaType: text, digest, size });
const platform = v.object({ os: v.string(), architecture: v.string(), variant: text });
const indexSchema = v.object({
  manifests: v.array(v.object({ ...descriptor.entries, platform: v.nullish(platform) })),
});
const manifestSchema = v.object({
  artifactType: text,
  config: descriptor,
  layers: v.nullish(
    v.pipe(v.array(v.object({ ...descriptor.entries, annotations: stringMap })), v.maxLength(MAX_LAYERS)),
    [],
  ),
  annotations: stringMap,
});
const configSchema = v.object({
  os: text,
  architecture: text,
  variant: text,
  config: v.nullish(
    v.object({
      User: text,
      Env: strings,
      Entrypoint: strings,
      Cmd: strings,
      WorkingDir: text,
      StopSignal: text,
      Volumes: keys,
      Labels: stringMap,
      ExposedPorts: keys,
    }),
  ),
  rootfs: v.object({ diff_ids: v.nullish(v.array(digest), []) }),
});
const shapeSchema = v.looseObject({ schemaVersion: v.nullish(v.number()), mediaType: text });

/**
 * Parses an index or a manifest. `declared` is the media type that its descriptor or its Content-Type gave, if any.
 * Throws `precondition` naming `what` for anything that is none that can be used: schema 1, foreign layers, artifacts with
 * files that cannot be, documents that claim to be two things at once (GHSA-77vh-xpmg-72qh).
 */
export function parseDocument(
  bytes: Uint8Array,
  declared: string,
  what: string,
): ImageIndex | ImageManifest | ArtifactManifest {
  const json = parseJson(bytes, what);
  const shape = checked(shapeSchema, json, what);
  const isIndex = shape['manifests'] !== undefined;
  const isManifest = shape['config'] !== undefined || shape['layers'] !== undefined;
  const kinds = new Set([declared, shape.mediaType].map(documentKind).filter((kind) => kind !== undefined));
  if (kinds.has('schema1') || shape.schemaVersion === 1) {
    throw refused(
      what,
      'is a Docker schema 1 manifest, which nothing can verify; push the image again with a newer tool',
    );
  }
  if (kinds.size > 1 || isIndex === isManifest) {
    throw refused(what, 'is not clearly one of an image index and an image manifest');
  }
  if (kinds.size === 1 && !kinds.has(isIndex ? 'index' : 'manifest')) {
    throw refused(what, `says that it is ${shape.mediaType || declared}, and is not`);
  }
  return isIndex ? parseIndex(json, what) : parseManifest(json, what);
}

function parseIndex(json: unknown, what: string): ImageIndex {
  const { manifests } = checked(indexSchema, json, what);
  return { kind: 'index', entries: manifests.map((entry) => ({ ...entry, platform: entry.platform ?? undefined })) };
}

function parseManifest(json: unknown, what: string): ImageManifest | ArtifactManifest {
  const manifest = checked(manifestSchema, json, what);
  if (!isImageConfig(manifest.config.mediaType)) {
    const type = manifest.artifactType || manifest.config.mediaType || 'of an unknown type';
    const { annotations } = manifest;
    return { kind: 'artifact', type, files: artifactFiles(manifest.layers, `${what} (artifact ${type})`), annotations };
  }
  const layers = manifest.layers.map(({ annotations: _annotations, ...layer }) => {
    if (isForeignLayer(layer.mediaType)) {
      throw refused(what, `layer ${layer.digest} is foreign (${layer.mediaType}): its registry does not have it`);
    }
    const compression = layerCompression(layer.mediaType);
    if (compression) return { ...layer, compression };
    throw refused(what, `layer ${layer.digest} has a media type that Berth does not know: "${layer.mediaType}"`);
  });
  return { kind: 'manifest', config: manifest.config, layers, annotations: manifest.annotations };
}

/** Parses an image config. Throws `precondition` naming `what` when it is none. */
export function parseImageConfig(bytes: Uint8Array, what: string): ConfigDocument {
  const document = checked(configSchema, parseJson(bytes, what), what);
  const config = document.config;
  return {
    platform: { os: document.os || 'linux', architecture: document.architecture, variant: document.variant },
    diffIds: document.rootfs.diff_ids,
    config: {
      user: config?.User ?? '',
      env: config?.Env ?? [],
      entrypoint: config?.Entrypoint ?? [],
      cmd: config?.Cmd ?? [],
      workingDir: config?.WorkingDir ?? '',
      stopSignal: config?.StopSignal ?? '',
      volumes: config?.Volumes ?? [],
      labels: config?.Labels ?? {},
      exposedPorts: config?.ExposedPorts ?? [],
    },
  };
}

function parseJson(bytes: Uint8Array, what: string): unknown {
  if (bytes.length > MAX_DOCUMENT_BYTES) throw refused(what, `is larger than ${MAX_DOCUMENT_BYTES} bytes`);
  if (hasManyValues(bytes)) throw refused(what, `has more than ${MAX_JSON_VALUES} values`);
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch (cause) {
    throw refused(what, 'is not JSON', cause);
  }
}

function checked<const S extends v.GenericSchema>(schema: S, json: unknown, what: string): v.InferOutput<S> {
  const result = v.safeParse(schema, json, { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw refused(what, `is malformed at "${v.getDotPath(issue) ?? '.'}": ${issue.message}`);
}

function refused(what: string, problem: string, cause?: unknown): BerthError {
  return new BerthError('precondition', `${what} ${problem}`, { cause });
}
