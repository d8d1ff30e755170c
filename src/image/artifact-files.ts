/** Which files an OCI artifact is made of: its blobs, each under the name that its descriptor gives it. */

import { BerthError } from '../base/errors.ts';
import { type Digest, digestOf } from './digest.ts';
import { OCI_EMPTY } from './media-types.ts';

/** One blob of an artifact, and what it becomes. */
export interface ArtifactFile {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  /** Its path in the artifact: relative, without `.` and `..`. */
  readonly name: string;
  /** True for an archive (tar, compressed or not) of the folder `name`, which is unpacked. */
  readonly isFolder: boolean;
}

/** What the manifest says of a blob. */
interface ArtifactLayer {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations: Readonly<Record<string, string>>;
}

/** As many lower layers as surely fit into the options of one mount. */
const MAX_FILES = 120;
const MAX_NAME_BYTES = 1024;
const MAX_COMPONENT_BYTES = 255;

/** OCI image spec, "Pre-Defined Annotation Keys"; and the model spec of the CNCF, as it is and as it was called. */
const NAME_KEYS = ['org.opencontainers.image.title', 'org.cncf.model.filepath', 'org.cnai.model.filepath'] as const;
/** How oras marks the archive of a folder. */
const UNPACK_KEY = 'io.deis.oras.content.unpack';

/**
 * The files of an artifact. A blob without a name is called after its digest; the empty one is no file. Throws
 * `precondition` naming `what` for names that lead out of the artifact, that no file can have, or that two blobs have.
 */
export function artifactFiles(layers: readonly ArtifactLayer[], what: string): ArtifactFile[] {
  const files = layers
    .filter(({ mediaType }) => mediaType !== OCI_EMPTY)
    .map(({ annotations, ...blob }) => {
      const name = NAME_KEYS.map((key) => annotations[key] ?? '').find((found) => found !== '');
      const isFolder = name !== undefined && annotations[UNPACK_KEY] === 'true';
      return { ...blob, name: checkedName(name ?? blob.digest.replace(':', '-'), what), isFolder };
    });
  if (files.length > MAX_FILES) {
    throw new BerthError('precondition', `${what} has ${files.length} files, and ${MAX_FILES} are the most`);
  }
  checkConflicts(files, what);
  return files;
}

/** Under which id the layer store keeps a file: its content and its name, so that artifacts share what they have alike. */
export function artifactFileId({ digest, name, isFolder }: Pick<ArtifactFile, 'digest' | 'name' | 'isFolder'>): Digest {
  return digestOf(Buffer.from(JSON.stringify(['file of an artifact', digest, name, isFolder])));
}

function checkedName(name: string, what: string): string {
  const fail = (problem: string): BerthError =>
    new BerthError('precondition', `${what}: its file ${JSON.stringify(name.slice(0, 200))} ${problem}`);
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) throw fail(`has a name longer than ${MAX_NAME_BYTES} bytes`);
  if (name.startsWith('/')) throw fail('has an absolute name');
  if (name.includes('\0')) throw fail('has a NUL byte in its name');
  const components = name.split('/').filter((component) => component !== '' && component !== '.');
  if (components.length === 0) throw fail('has no name');
  if (components.includes('..')) throw fail('has ".." in its name, which leads out of the artifact');
  if (components.some((component) => Buffer.byteLength(component) > MAX_COMPONENT_BYTES)) {
    throw fail(`has a part longer than ${MAX_COMPONENT_BYTES} bytes in its name`);
  }
  return components.join('/');
}

/** Two files of one name, or one in the place of another's folder: which of them is seen would be chance. */
function checkConflicts(files: readonly ArtifactFile[], what: string): void {
  const names = new Set<string>();
  for (const { name } of files) {
    if (names.has(name)) {
      throw new BerthError('precondition', `${what} has two files with the name ${JSON.stringify(name)}`);
    }
    names.add(name);
  }
  for (const name of names) {
    for (let slash = name.indexOf('/'); slash >= 0; slash = name.indexOf('/', slash + 1)) {
      const folder = name.slice(0, slash);
      if (!names.has(folder)) continue;
      const both = `${JSON.stringify(folder)} and ${JSON.stringify(name)}`;
      throw new BerthError('precondition', `${what} has files in the place of each other: ${both}`);
    }
  }
}
