/** A V8 CPU profile, as `node --cpu-prof` writes it: as much of it as is read here. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  /** Microseconds since the sample before. */
  readonly timeDeltas: readonly number[];
}

/** Where the time of a thread went, without what it only waited. */
export interface CpuShares {
  /** All of it, in milliseconds. */
  readonly busyMs: number;
  /** By place: a room of src, a package, Node itself; the largest first. */
  readonly places: readonly Share[];
  /** By function; the largest first. */
  readonly functions: readonly Share[];
}

/** How long a function, or those of a place, ran themselves, in milliseconds. */
export interface Share {
  readonly name: string;
  readonly ms: number;
}

/** Sums up a CPU profile. Throws when the text is none. */
export function readCpuProfile(text: string): CpuShares {
  const { nodes, samples, timeDeltas } = JSON.parse(text) as CpuProfile;
  const frames = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const places = new Map<string, number>();
  const functions = new Map<string, number>();
  let busyMs = 0;
  for (const [index, id] of samples.entries()) {
    const frame = frames.get(id);
    if (!frame || frame.functionName === '(idle)') continue;
    const ms = (timeDeltas[index] ?? 0) / 1000;
    const place = placeOf(frame.url, frame.functionName);
    const name = `${frame.functionName || '(anonymous)'} ${place}${frame.url === '' ? '' : `:${frame.lineNumber + 1}`}`;
    busyMs += ms;
    places.set(place, (places.get(place) ?? 0) + ms);
    functions.set(name, (functions.get(name) ?? 0) + ms);
  }
  return { busyMs, places: largestFirst(places), functions: largestFirst(functions) };
}

/** `src/pod/pods.js` of this checkout, the name of a package, `node:fs`; without a file what V8 calls its own work. */
function placeOf(url: string, functionName: string): string {
  if (url === '') return functionName.startsWith('(') ? functionName : 'native';
  const [, packaged] = /\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? [];
  if (packaged !== undefined) return packaged;
  return /\/dist\/(.*)$/.exec(url)?.[1] ?? url;
}

function largestFirst(shares: ReadonlyMap<string, number>): Share[] {
  return [...shares].map(([name, ms]) => ({ name, ms })).sort((one, other) => other.ms - one.ms);
}
