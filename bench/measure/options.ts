import { parseArgs } from 'node:util';

import { type Peer, parsePeer } from '../peers/peer.ts';
import type { Endpoint } from './rounds.ts';

/** What the bench was asked to do. */
export interface Options {
  /** Empty: the bench starts its own. */
  readonly endpoints: readonly Endpoint[];
  /** To start beside Berth. */
  readonly peers: readonly Peer[];
  /** Undefined: the bench's own, which only endpoints have that it started. */
  readonly image: string | undefined;
  readonly lifecycles: number;
  readonly rounds: number;
  readonly parallel: readonly number[];
  readonly runtimeHandler: string;
  /** OCI runtime of the endpoints that the bench starts. */
  readonly runtime: string;
  readonly cgroupParent: string;
  /** How long the idle machine is watched, to know what is not the pods' doing. */
  readonly idleMs: number;
  /** How long daemons rest after their last life, until what they keep is looked at. */
  readonly settleMs: number;
  /** Whether the state folders of what the bench starts are on a tmpfs, whatever /run is. */
  readonly tmpfs: boolean;
  /** How many pods to measure while they stand, at each endpoint; 0 for none. */
  readonly standing: number;
  /** The same at the first endpoint alone, besides; 0 for none. */
  readonly standingFirst: number;
  /** How many bytes an exec and a port-forward carry; 0 for none. */
  readonly streamBytes: number;
  /** How long to ask as a kubelet while pods stand. */
  readonly restMs: number;
  /** Whether to look into what the lives of pods are made of, besides. */
  readonly profile: boolean;
  /** Where to write the figures, besides bench/results. */
  readonly json: string | undefined;
}

/** Says how to use the bench. */
export const USAGE = `Usage: npm run bench -- [OPTION]...
Measures the lives of pods at CRI endpoints, and prints a Markdown table. Without --endpoint it starts a berthd.

  --endpoint [NAME=]unix:///PATH   measure this one; again for more: they take turns
  --with containerd[=/FOLDER]      start containerd as well, Debian's or the one in a folder of programs, and compare
  --with crio[=/FOLDER]            the same with CRI-O; the folder has crio and pinns
  --with /FOLDER                   start the berthd of another checkout, which must be built, and compare
  --image REFERENCE                image of the containers, with sh, sleep and true; needed with --endpoint
  --lifecycles N                   pods that count, at each endpoint and number at a time (64)
  --rounds N                       turns of each endpoint (3)
  --parallel N,...                 how many pods at a time (1,4,16)
  --runtime NAME                   OCI runtime of what the bench starts (runc)
  --runtime-handler NAME           handler that pods ask for (the default one)
  --cgroup-parent PATH             cgroup of the pods (a new one, or with --endpoint the endpoint's own)
  --idle SECONDS                   how long to watch the idle machine first (3)
  --settle SECONDS                 how long daemons rest after the last life, until what they keep is looked at (10)
  --tmpfs                          keep the state of what the bench starts on a tmpfs, where /run is none
  --standing N[,M]                 measure also N pods that stand, and then M at the first endpoint alone: lists,
                                   statistics, memory, starts (100; 0 for none)
  --rest SECONDS                   how long to ask as a kubelet does while they stand (20)
  --stream MEGABYTES               what an exec and a port-forward carry (256; 0 for none)
  --profile                        look also into what the lives are made of: programs, system calls, berthd's time
  --json FILE                      also write the figures there
`;

/** Reads the command line; undefined means that help is wanted. Throws with what is wrong. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { values } = parseArgs({
    args: [...args],

    options: {
      endpoint: { type: 'string', multiple: true, default: [] },
      with: { type: 'string', multiple: true, default: [] },
      image: { type: 'string' },
      lifecycles: { type: 'string', default: '64' },
      rounds: { type: 'string', default: '3' },
      parallel: { type: 'string', default: '1,4,16' },
      runtime: { type: 'string', default: 'runc' },
      'runtime-handler': { type: 'string', default: '' },
      'cgroup-parent': { type: 'string', default: '' },
      idle: { type: 'string', default: '3' },
      settle: { type: 'string', default: '10' },
      tmpfs: { type: 'boolean', default: false },
      standing: { type: 'string', default: '100' },
      rest: { type: 'string', default: '20' },
      stream: { type: 'string', default: '256' },
      profile: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const endpoints = values.endpoint.map(parseEndpoint);
  const peers = values.with.map(parsePeer);
  if (endpoints.length > 0 && peers.length > 0) throw new Error('--with and --endpoint exclude each other');
  if (endpoints.length > 0 && values.image === undefined) throw new Error('--endpoint needs --image');
  if (endpoints.length > 0 && values.profile) throw new Error('--profile and --endpoint exclude each other');
  if (endpoints.length === 0 && values.image !== undefined) throw new Error('--image needs --endpoint');
  const lifecycles = parseCount('--lifecycles', values.lifecycles);
  const [standing = 0, standingFirst = 0, ...more] = values.standing
    .split(',')
    .map((text) => parseNumber('--standing', text));
  if (more.length > 0) throw new Error(`--standing ${values.standing}: expected N or N,M`);
  return {
    endpoints,
    peers,
    image: values.image,
    lifecycles,
    rounds: Math.min(parseCount('--rounds', values.rounds), lifecycles),
    parallel: values.parallel.split(',').map((text) => parseCount('--parallel', text)),
    runtimeHandler: values['runtime-handler'],
    runtime: values.runtime,
    cgroupParent: values['cgroup-parent'],
    idleMs: parseCount('--idle', values.idle) * 1000,
    settleMs: parseCount('--settle', values.settle) * 1000,
    tmpfs: values.tmpfs,
    standing,
    standingFirst,
    streamBytes: parseNumber('--stream', values.stream) * 1e6,
    restMs: parseCount('--rest', values.rest) * 1000,
    profile: values.profile,
    json: values.json,
  };
}

function parseEndpoint(text: string, index: number): Endpoint {
  const [, name = `endpoint ${index + 1}`, address] = /^(?:([^=/]+)=)?(unix:\/\/\/.+)$/.exec(text) ?? [];
  if (address === undefined) throw new Error(`--endpoint ${text}: expected [NAME=]unix:///PATH`);
  return { name, address };
}

/** A count, or 0. */
function parseNumber(option: string, text: string): number {
  return text === '0' ? 0 : parseCount(option, text);
}

function parseCount(option: string, text: string): number {
  const count = Number(text);
  if (!/^\d{1,6}$/.test(text) || count === 0) throw new Error(`${option} ${text}: expected a positive number`);
  return count;
}
