/** The media types of image documents and layers that registries send: OCI image spec and Docker's schema 2. */

/** What a document is. `schema1` is Docker's manifest version 1, which has neither config nor verified layers. */
export type DocumentKind = 'index' | 'manifest' | 'schema1';

/** How a layer's tar is compressed. */
export type LayerCompression = 'none' | 'gzip' | 'zstd';

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const DOCKER_INDEX = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
/** What stands where a manifest has nothing: OCI image spec, "Guidance for an Empty Descriptor". */
export const OCI_EMPTY = 'application/vnd.oci.empty.v1+json';
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';

const documents: ReadonlyMap<string, DocumentKind> = new Map([
  [OCI_INDEX, 'index'],
  [DOCKER_INDEX, 'index'],
  [OCI_MANIFEST, 'manifest'],
  [DOCKER_MANIFEST, 'manifest'],
  ['application/vnd.docker.distribution.manifest.v1+json', 'schema1'],
  ['application/vnd.docker.distribution.manifest.v1+prettyjws', 'schema1'],
]);

const layers: ReadonlyMap<string, LayerCompression> = new Map([
  ['application/vnd.oci.image.layer.v1.tar', 'none'],
  ['application/vnd.oci.image.layer.v1.tar+gzip', 'gzip'],
  ['application/vnd.oci.image.layer.v1.tar+zstd', 'zstd'],
  ['application/vnd.docker.image.rootfs.diff.tar', 'none'],
  ['application/vnd.docker.image.rootfs.diff.tar.gzip', 'gzip'],
  ['application/vnd.docker.image.rootfs.diff.tar.zstd', 'zstd'],
]);

/** The Accept header of a manifest request. */
export const MANIFEST_ACCEPT: string = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(', ');

/** What a media type says that a document is; undefined when it is neither index nor manifest. */
export function documentKind(mediaType: string): DocumentKind | undefined {
  return documents.get(mediaType);
}

/** True for the config of an image that can be run. */
export function isImageConfig(mediaType: string): boolean {
  return mediaType === OCI_CONFIG || mediaType === DOCKER_CONFIG;
}

/** The compression of an image layer; undefined for what is no such layer. */
export function layerCompression(mediaType: string): LayerCompression | undefined {
  return layers.get(mediaType);
}

/** True for layers that are not in the registry (deprecated "nondistributable", "foreign": Windows base layers). */
export function isForeignLayer(mediaType: string): boolean {
  return mediaType.includes('.nondistributable.') || mediaType.includes('.rootfs.foreign.');
}

/** The media type of a Content-Type header, without parameters, in lower case. */
export function mediaTypeOf(contentType: string): string {
  return (contentType.split(';', 1)[0] ?? '').trim().toLowerCase();
}
