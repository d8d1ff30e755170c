import { BerthError, invalid } from '../../base/errors.ts';
import { type FileProblem, type FolderContents, ParsedFolders } from '../parsed-folders.ts';
import { type CdiEdits, type CdiSpec, parseCdiSpec } from './cdi-spec.ts';
import { yamlToJson } from './yaml.ts';

/** A device by its full name, and the field of the CRI that asks for it. */
export interface CdiRequest {
  readonly field: string;
  readonly name: string;
}

/** What a container says about CDI devices. */
export interface CdiWishes {
  readonly cdiDevices: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
}

const ANNOTATION_PREFIX = 'cdi.k8s.io/';
const FULL_NAME = /^([A-Za-z0-9_.-]+\/[A-Za-z0-9_.-]+)=([A-Za-z0-9_.:-]+)$/;

/**
 * The devices that a container asks for, each once: by the CRI's field, which the kubelet fills for claims and device
 * plugins, and by annotations (`cdi.k8s.io/...`, a list with commas), which came before it. Throws `invalid`.
 */
export function requestedCdiDevices({ cdiDevices, annotations }: CdiWishes): CdiRequest[] {
  const requests = cdiDevices.map((name, index) => ({ field: `config.CDI_devices[${index}].name`, name }));
  for (const [key, value] of Object.entries(annotations)) {
    if (!key.startsWith(ANNOTATION_PREFIX)) continue;
    const field = `config.annotations[${key}]`;
    for (const name of value.split(',')) requests.push({ field, name: name.trim() });
  }
  for (const { field, name } of requests) {
    if (!FULL_NAME.test(name))
      throw invalid(field, `${JSON.stringify(name)} is not a CDI device such as vendor.com/class=name`);
  }
  const names = requests.map(({ name }) => name);
  return requests.filter(({ name }, index) => names.indexOf(name) === index);
}

/**
 * The CDI devices of this node: the files of some folders, of which the later ones win. They may change at any time and
 * are looked at for each container that asks for a device.
 */
export class CdiDevices {
  readonly #folders: readonly string[];
  readonly #files: ParsedFolders<CdiSpec>;

  constructor(folders: readonly string[]) {
    this.#folders = folders;
    this.#files = new ParsedFolders({
      folders,
      suffixes: ['.json', '.yaml', '.yml'],
      parse: async (text, name) => parseCdiSpec(name.endsWith('.json') ? text : await yamlToJson(text)),
    });
  }

  /**
   * What the devices change of a container, in this order: of each file its general part, when its first device comes,
   * and the device's own. Throws `precondition` for a device that no file has, or that two of the same folder have.
   */
  async resolve(requests: readonly CdiRequest[]): Promise<CdiEdits[]> {
    if (requests.length === 0) return [];
    const contents = await this.#files.read();
    const seen = new Set<CdiSpec>();
    return requests.flatMap((request) => {
      const { spec, edits } = this.#find(request, contents);
      const general = seen.has(spec) ? undefined : spec.edits;
      seen.add(spec);
      return general ? [general, edits] : [edits];
    });
  }

  /** The files that cannot be used now, and why. */
  async problems(): Promise<readonly FileProblem[]> {
    return (await this.#files.read()).problems;
  }

  #find({ field, name }: CdiRequest, { files, problems }: FolderContents<CdiSpec>) {
    const [, kind = '', device = ''] = FULL_NAME.exec(name) ?? [];
    const having = files.filter(({ value }) => value.kind === kind && value.devices.has(device));
    const best = Math.max(...having.map(({ folder }) => folder));
    const [first, second] = having.filter(({ folder }) => folder === best);
    const edits = first?.value.devices.get(device);
    if (!first || !edits) {
      const broken = problems.map(({ path, problem }) => `; ${path} cannot be used: ${problem}`).join('');
      throw new BerthError('precondition', `${field}: no file in ${this.#folders.join(', ')} has ${name}${broken}`);
    }
    if (second) throw new BerthError('precondition', `${field}: both ${first.path} and ${second.path} have ${name}`);
    return { spec: first.value, edits };
  }
}
