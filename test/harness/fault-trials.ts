import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

import { status as grpc } from '@grpc/grpc-js';

import {
  ImageServiceService as imageService,
  ListImagesRequest,
  ListPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from './cri-lab.ts';
import type { FaultFields, FaultFolder } from './faults.ts';
import { listTree } from './list-tree.ts';
import { readMachineState } from './machine-state.ts';
import type { PodLab } from './pod-lab.ts';

/** A request that faults are tried on. */
export interface Scene<C> {
  readonly name: string;
  /** Pipelines of which it must pass every step. */
  readonly pipelines: readonly string[];
  /** Programs whose word is all that there is: nobody could notice that they lie when they say that all is well. */
  readonly trusted?: readonly string[];
  /** Pipelines that the next berthd ends in a way of its own, and not by the undos of their steps. */
  readonly endedAtOnce?: readonly string[];
  /** More places that it must pass. */
  readonly places?: readonly string[];
  /** Brings the node to where the request is due. */
  prepare(): Promise<C>;
  /** Sends the request, each time the same. */
  ask(context: C, timeoutMs?: number): Promise<unknown>;
  /** What its client does when it has failed; the same request once more where nothing is said. */
  again?(context: C): Promise<unknown>;
  /** Fails unless the request has done its work. */
  verify(context: C): Promise<void>;
  /** Files that may stay after a fault until berthd is started again: their removal is what failed. */
  readonly untilRestart?: RegExp;
  /** Files that may stay: they are kept for a next time, and go by their age. */
  readonly kept?: RegExp;
  /** Takes away what is left beside pods. */
  clean?(context: C): Promise<void>;
}

/** What the trials of a scene came to. */
export interface TrialCounts {
  readonly scene: string;
  readonly places: number;
  tried: number;
  /** Faults that never struck, since the work took another way. */
  missed: number;
  /** Faults for which there was no time. */
  untried: number;
  restarts: number;
}

interface Trial {
  readonly fault: FaultFields;
  /** Faults that strike what the first one brings about. */
  readonly more: readonly FaultFields[];
  /** Faults that strike the next berthd while it starts, which undoes what this one has begun. */
  readonly atRestart?: readonly FaultFields[];
  /** False where another order of events may pass by it. */
  readonly mustStrike: boolean;
}

/** The steps of all pipelines, as the code lists them. */
export type Outlines = readonly {
  readonly name: string;
  readonly steps: readonly { readonly name: string; readonly hasUndo: boolean }[];
}[];

const IMPATIENT_MS = 300;
const PATIENT_MS = 60_000;
const SERVING_MS = 30_000;
/** What stays until a restart is waited for so long each time. */
const SETTLE_MS = 6_000;
const LONG_SETTLE_MS = 60_000;
const VERBOSE = process.env['BERTH_FAULTS_VERBOSE'] !== undefined;
/** Tries every occurrence of every call, in every way: for whoever has the time. */
const ALL = process.env['BERTH_FAULTS_ALL'] !== undefined;
/** So many times as long may it take. */
const PATIENCE = Number(process.env['BERTH_FAULTS_PATIENCE'] ?? 1);
/** Tries nothing but faults of which the name matches. */
const ONLY = new RegExp(process.env['BERTH_FAULTS_ONLY'] ?? '');
/** Where there is no time for all faults of calls, each day begins with others. */
const DAY = Math.floor(Date.now() / 86_400_000);

/** What /bin/sh runs in place of a program that misbehaves. */
const STAND_INS: Readonly<Record<string, string>> = {
  fails: 'exit 1',
  'says nothing': 'exit 0',
  'prints garbage': 'echo "{\\"garbage"; exit 0',
  'fails when all is done': '"$@"; exit 1',
  'is killed': 'kill -9 $$',
  'comes late': 'while [ -e FAULT_FILE ]; do sleep 0.02; done; exec "$@"',
};

const LIES: readonly string[] = ['exit 0', STAND_INS['prints garbage'] ?? ''];

/**
 * Tries faults on requests of one berthd. After each the same request must succeed, everything must go when it is
 * removed, and nothing may be left of it on the machine, in the folders, the database or the daemon.
 */
export class FaultTrials {
  readonly #lab: PodLab;
  readonly #faults: FaultFolder;
  readonly #outlines: Outlines;
  readonly #endsAtMs: number;
  #scenesLeft: number;

  /**
   * `limitMs` is for so many scenes together: on a busy machine the last faults of a scene, those of system calls, are
   * left out.
   */
  constructor(
    { lab, faults, outlines }: { lab: PodLab; faults: FaultFolder; outlines: Outlines },
    { limitMs, scenes }: { limitMs: number; scenes: number },
  ) {
    this.#lab = lab;
    this.#faults = faults;
    this.#outlines = outlines;
    this.#endsAtMs = performance.now() + limitMs * PATIENCE;
    this.#scenesLeft = scenes;
  }

  /** Tries all faults of a scene, and fails with the list of those that something was wrong after. */
  async run<C>(scene: Scene<C>): Promise<TrialCounts> {
    await this.#cycle(scene);
    const passed = await this.#record(scene);
    for (const place of this.#expectedPlaces(scene)) assert.ok(passed.includes(place), `${place} was not passed`);
    const trials = this.#trialsOf(scene, passed);
    const counts: TrialCounts = {
      scene: scene.name,
      places: new Set(passed).size,
      tried: 0,
      missed: 0,
      untried: 0,
      restarts: 0,
    };
    await this.#untilCopied();
    let before = this.#takeStock();
    const problems: string[] = [];
    if (VERBOSE) process.stderr.write(`${scene.name}: ${trials.length} faults, ${passed.join(', ')}\n`);
    const now = performance.now();
    const endsAtMs = now + (this.#endsAtMs - now) / Math.max(this.#scenesLeft, 1);
    this.#scenesLeft -= 1;
    for (const trial of trials) {
      if (performance.now() > endsAtMs && !ALL) {
        counts.untried += 1;
        continue;
      }
      const startedMs = performance.now();
      try {
        await this.#try(scene, trial, before, counts);
      } catch (err) {
        const problem = `${name(trial)}: ${err instanceof Error ? err.message : String(err)}`;
        if (VERBOSE) process.stderr.write(`WRONG ${problem}\n`);
        problems.push(problem);
        await this.#repair();
        // What is left is told once.
        before = this.#takeStock();
      }
      if (VERBOSE) process.stderr.write(`${Math.round(performance.now() - startedMs)} ms: ${name(trial)}\n`);
    }
    assert.deepEqual(problems, [], `of ${counts.tried} faults in ${scene.name}`);
    return counts;
  }

  #expectedPlaces<C>({ pipelines, places = [] }: Scene<C>): string[] {
    const own = pipelines.map((name) => this.#outlines.find((outline) => outline.name === name) ?? assert.fail(name));
    return [...own.flatMap(({ name, steps }) => steps.map((step) => `${name}/${step.name}`)), ...places];
  }

  async #cycle<C>(scene: Scene<C>): Promise<void> {
    const context = await scene.prepare();
    await scene.ask(context);
    await scene.verify(context);
    await this.#clean(scene, context);
  }

  async #record<C>(scene: Scene<C>): Promise<string[]> {
    const context = await scene.prepare();
    this.#faults.forgetPassed();
    await scene.ask(context);
    const passed = this.#faults.passed();
    await scene.verify(context);
    await this.#clean(scene, context);
    return passed;
  }

  #trialsOf<C>(scene: Scene<C>, passed: readonly string[]): Trial[] {
    const seen = new Map<string, number>();
    const occurrences = passed.map((place) => {
      const skip = seen.get(place) ?? 0;
      seen.set(place, skip + 1);
      return { place, skip };
    });
    const of = (prefix: string, trialsAt: (place: string, skip: number) => Trial[]): Trial[] =>
      occurrences.flatMap(({ place, skip }) => (place.startsWith(prefix) ? trialsAt(place, skip) : []));
    const steps = occurrences.flatMap(({ place, skip }) => (isStep(place) ? stepTrials(place, skip) : []));
    const undos = scene.pipelines.flatMap((pipeline) =>
      this.#undoTrials(pipeline, !scene.endedAtOnce?.includes(pipeline)),
    );
    const isLie = ({ fault }: Trial): boolean =>
      LIES.includes(fault.script ?? '') && scene.trusted?.includes(fault.place.replace('process ', '')) === true;
    const processes = of('process ', processTrials).filter((trial) => !isLie(trial));
    const calls = (['call', 'database', 'file'] as const).flatMap((kind) => of(`${kind} `, callTrials));
    const today = calls.length === 0 ? 0 : (DAY * 7) % calls.length;
    const trials = [...steps, ...undos, ...processes, ...calls.slice(today), ...calls.slice(0, today)];
    return trials.filter((trial) => ONLY.test(name(trial)));
  }

  /** The last step that has an undo fails when it is done, and then something is wrong with an undo too. */
  #undoTrials(pipeline: string, undoesAtRestart: boolean): Trial[] {
    const undoable = this.#outlines.find(({ name }) => name === pipeline)?.steps.filter(({ hasUndo }) => hasUndo) ?? [];
    const failed = undoable.at(-1);
    if (!failed) return [];
    const fault: FaultFields = { place: `${pipeline}/${failed.name}`, phase: 'after', action: 'error' };
    return undoable.flatMap((step) => {
      const place = `${pipeline}/undo ${step.name}`;
      const ways: FaultFields[] = [
        { place, action: 'error' },
        { place, phase: 'after', action: 'error' },
        { place, action: 'kill' },
        { place, phase: 'after', action: 'kill' },
      ];
      const atRestart = { place: `Restart/undo ${step.name}` };
      const killed = { ...fault, action: 'kill' } as const;
      return [
        ...ways.map((way) => ({ fault, more: [way], mustStrike: true })),
        ...(undoesAtRestart ? (['error', 'kill'] as const) : []).map((action) => ({
          fault: killed,
          more: [],
          atRestart: [{ ...atRestart, action }],
          mustStrike: true,
        })),
      ];
    });
  }

  async #try<C>(scene: Scene<C>, trial: Trial, before: Stock, counts: TrialCounts): Promise<void> {
    counts.tried += 1;
    const { fault, more } = trial;
    const context = await scene.prepare();
    const armed = [fault, ...more].map((each) => this.#faults.arm(each));
    const isHang = fault.action === 'hang' || fault.script?.includes('FAULT_FILE') === true;
    const failure = await scene.ask(context, isHang ? IMPATIENT_MS : PATIENT_MS).then(
      () => undefined,
      (err: unknown) => err,
    );
    // What goes on after the client has left comes to it in a moment.
    if (isHang)
      await eventually('it hangs', () => armed.every(({ hasStruck }) => hasStruck) || undefined, 3_000).catch(() => {});
    // What goes on behind the answer may pass the place at any moment, also between a look and the next line.
    this.#faults.disarm();
    const struck = armed.every(({ hasStruck }) => hasStruck);
    if (!struck) counts.missed += 1;
    if (trial.mustStrike) assert.ok(struck, 'it did not strike');
    if (struck && isHang) {
      assert.equal(
        (failure as { code?: number } | undefined)?.code,
        grpc.DEADLINE_EXCEEDED,
        `told: ${String(failure)}`,
      );
      if (!isCall(fault.place))
        await this.#lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create(), SERVING_MS);
    }
    this.#faults.clear();
    if (struck && kills(trial)) {
      counts.restarts += 1;
      await this.#lab.berthd.end('SIGKILL');
      await this.#start(trial.atRestart ?? []);
    } else if (struck && fault.action === 'error' && fault.phase !== 'after' && isStep(fault.place)) {
      assert.ok(String(failure).includes(`fault at ${fault.place}`), `told: ${String(failure)}`);
    }
    if (scene.again) await scene.again(context);
    else await scene.ask(context, PATIENT_MS);
    await scene.verify(context);
    await this.#clean(scene, context);
    await this.#assertAsBefore(before, scene);
    // A new daemon has nothing that it could have forgotten to close.
    if (!(struck && kills(trial))) await this.#assertDescriptors();
  }

  /** Starts berthd with faults in its way; one that dies of them is started once more. */
  async #start(faults: readonly FaultFields[]): Promise<void> {
    const armed = faults.map((fault) => this.#faults.arm(fault));
    try {
      await this.#lab.berthd.start();
    } catch (err) {
      if (!armed.some(({ hasStruck }) => hasStruck)) throw err;
      await this.#lab.berthd.start();
    }
    assert.ok(
      armed.every(({ hasStruck }) => hasStruck),
      'it did not strike at the start',
    );
    this.#faults.clear();
  }

  async #clean<C>(scene: Scene<C>, context: C): Promise<void> {
    await scene.clean?.(context);
    await this.#removePods();
  }

  async #removePods(): Promise<void> {
    const { items } = await this.#lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    await Promise.all(items.map(({ id }) => this.#lab.removePod(id)));
  }

  /** Has the next trial begin with a berthd that has nothing. */
  async #repair(): Promise<void> {
    this.#faults.clear();
    await this.#lab.berthd.end('SIGKILL');
    await this.#lab.berthd.start();
    await this.#removePods().catch(() => {});
  }

  /** The copies of images, which stay, are written a moment after them; those of layers before. */
  async #untilCopied(): Promise<void> {
    const { berthd } = this.#lab;
    const { images } = await berthd.call(imageService.listImages, ListImagesRequest.create());
    const copies = (): number =>
      readdirSync(join(berthd.root, 'records/images')).filter((name) => !name.startsWith('.')).length;
    await eventually('all images have their copies', () => copies() === images.length || undefined);
  }

  #takeStock(): Stock {
    const { berthd } = this.#lab;
    const { mounts, processes, cgroups, links, rules } = readMachineState();
    const files = [...listAll(berthd.root), ...listAll(berthd.state)];
    return { mounts, processes, cgroups, links, rules, files, ...berthd.traces() };
  }

  async #assertAsBefore(
    before: Stock,
    { untilRestart, kept }: Pick<Scene<unknown>, 'untilRestart' | 'kept'>,
  ): Promise<void> {
    let left: Stock = {};
    const isClean = (): true | undefined => {
      left = difference(before, this.#takeStock());
      const items = Object.values(left).flat();
      return items.every((item) => kept?.test(item) === true) ? true : undefined;
    };
    const isCleanWithin = async (ms: number): Promise<boolean> =>
      await eventually('all is as before', isClean, ms).catch((err: unknown) => {
        if (err instanceof assert.AssertionError) return false;
        throw err;
      });
    if (await isCleanWithin(SETTLE_MS)) return;
    const mayStay = (item: string): boolean => untilRestart?.test(item) === true;
    // On a busy machine the rest may take long.
    if (!Object.values(left).flat().every(mayStay) && (await isCleanWithin(LONG_SETTLE_MS))) return;
    if (Object.values(left).flat().every(mayStay)) {
      await this.#lab.berthd.end('SIGTERM');
      await this.#lab.berthd.start();
      if (await isCleanWithin(LONG_SETTLE_MS)) return;
    }
    assert.fail(`left: ${JSON.stringify(left)}`);
  }

  /** Each descriptor that a failure forgets would stay until berthd ends. */
  async #assertDescriptors(): Promise<void> {
    const { pid } = this.#lab.berthd;
    let open: string[] = [];
    await eventually(
      'descriptors are closed',
      () => {
        open = descriptorsOf(pid);
        return open.length === 0 ? true : undefined;
      },
      LONG_SETTLE_MS,
    ).catch(() => assert.fail(`berthd holds ${open.join(' ')}`));
  }
}

/** What there is on the machine, by kind. */
type Stock = Readonly<Record<string, readonly string[]>>;

function difference(before: Stock, after: Stock): Stock {
  const left: Record<string, readonly string[]> = {};
  for (const [kind, items] of Object.entries(after)) {
    const known = new Set(before[kind]);
    // A berthd that was started again is no leftover, nor what it keeps for its next pull.
    const added = items.filter((item) => !known.has(item) && !/berthd|berth-disk|src\/main/.test(item));
    if (added.length > 0) left[kind] = added;
  }
  return left;
}

/** All files below a folder, but those that come and go without a pod. */
function listAll(folder: string): string[] {
  return listTree(folder)
    .filter((file) => !/^(logs|berth\.db|berthd\.log|addresses|sealed)/.test(file))
    .map((file) => join(folder, file));
}

/** What berthd has open that belongs to some pod, container or pull: pipes, sockets of its own, processes, files. */
function descriptorsOf(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      const target = readlinkSync(join(folder, fd));
      const isPidfd = target === 'anon_inode:[pidfd]' && isOfPod(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'));
      return isPidfd || /^\/(?!memfd:).* \(deleted\)$|\/(sandboxes|containers|snapshots|ingest|exits\/.)/.test(target)
        ? [`${fd} ${target}`]
        : [];
    } catch {
      return [];
    }
  });
}

/** By what /proc tells of a pidfd: that of a process which is there, and not the one that unpacks. */
function isOfPod(fdinfo: string): boolean {
  const [, pid] = /^Pid:\t(\d+)$/m.exec(fdinfo) ?? [];
  return pid !== undefined && readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'berth-disk\n';
}

function isStep(place: string): boolean {
  return !isCall(place) && !place.startsWith('process ');
}

/** A call blocks its thread: nothing is answered while it hangs. */
function isCall(place: string): boolean {
  return /^(call|database|file) /.test(place);
}

function stepTrials(place: string, skip: number): Trial[] {
  const ways: Omit<FaultFields, 'place'>[] = [
    { action: 'error' },
    { action: 'error', phase: 'after' },
    { action: 'hang' },
    { action: 'kill' },
    { action: 'kill', phase: 'during', delayMs: 3 },
    { action: 'kill', phase: 'after' },
  ];
  // On a busy machine the client may leave before the last step, which then waits for another one.
  return ways.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: way.action !== 'hang' }));
}

function processTrials(place: string, skip: number): Trial[] {
  const instead = Object.values(STAND_INS).map((script) => ({ action: 'run', phase: 'instead', script }) as const);
  const ways: Omit<FaultFields, 'place'>[] = [
    { action: 'error' },
    ...instead,
    { action: 'kill' },
    { action: 'kill', phase: 'during', delayMs: 5 },
    { action: 'kill', phase: 'after' },
  ];
  return ways.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: true }));
}

function callTrials(place: string, skip: number): Trial[] {
  if (skip > 0 && !ALL) return [];
  const ways: Omit<FaultFields, 'place'>[] = [
    { action: 'error', error: place.startsWith('database ') ? 'SQLITE_FULL' : 'EIO' },
    { action: 'kill' },
    ...(ALL ? ([{ action: 'hang' }, { action: 'kill', phase: 'after' }] as const) : []),
  ];
  // Of a parent cgroup without its mark nobody can tell who made it. A kubelet's parents are there before.
  const sound = ways.filter(({ action }) => place !== 'call fsetxattr' || action !== 'kill');
  return sound.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: false }));
}

function kills({ fault, more }: Trial): boolean {
  return [fault, ...more].some(({ action }) => action === 'kill');
}

function name({ fault, more, atRestart = [] }: Trial): string {
  return [fault, ...more, ...atRestart]
    .map(({ place, phase = 'before', action = 'error', skip = 0, script }) => {
      const way = Object.entries(STAND_INS).find(([, text]) => text === script)?.[0] ?? `${action} ${phase}`;
      return `${place}${skip > 0 ? ` (${skip + 1})` : ''} ${way}`;
    })
    .join(', then ');
}
