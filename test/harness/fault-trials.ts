import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

import { status as grpc } from '@grpc/grpc-js';

import { ListPodSandboxRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { eventually } from './cri-lab.ts';
import type { FaultFields, FaultFolder } from './faults.ts';
import { type MachineState, readMachineState } from './machine-state.ts';
import type { PodLab } from './pod-lab.ts';

/** A request that faults are tried on. */
export interface Scene<C> {
  readonly name: string;
  /** Pipelines of which it must pass every step. */
  readonly pipelines: readonly string[];
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
  restarts: number;
}

interface Trial {
  readonly fault: FaultFields;
  /** Faults that strike what the first one brings about. */
  readonly more: readonly FaultFields[];
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
const SERVING_MS = 5_000;
const SETTLE_MS = 15_000;
/** Tries every occurrence of every system call, in every way: for whoever has the time. */
const ALL = process.env['BERTH_FAULTS_ALL'] !== undefined;

/** What /bin/sh runs in place of a program that misbehaves. */
const STAND_INS: Readonly<Record<string, string>> = {
  fails: 'exit 1',
  'says nothing': 'exit 0',
  'prints garbage': 'echo "{\\"garbage"; exit 0',
  'fails when all is done': '"$@"; exit 1',
  'is killed': 'kill -9 $$',
  'comes late': 'while [ -e FAULT_FILE ]; do sleep 0.02; done; exec "$@"',
};

/**
 * Tries faults on requests of one berthd. After each the same request must succeed, everything must go when it is
 * removed, and nothing may be left of it on the machine, in the folders, the database or the daemon.
 */
export class FaultTrials {
  readonly #lab: PodLab;
  readonly #faults: FaultFolder;
  readonly #outlines: Outlines;

  constructor(lab: PodLab, faults: FaultFolder, outlines: Outlines) {
    this.#lab = lab;
    this.#faults = faults;
    this.#outlines = outlines;
  }

  /** Tries all faults of a scene, and fails with the list of those that something was wrong after. */
  async run<C>(scene: Scene<C>, only: (place: string) => boolean = () => true): Promise<TrialCounts> {
    await this.#cycle(scene);
    const passed = await this.#record(scene);
    for (const place of this.#expectedPlaces(scene)) assert.ok(passed.includes(place), `${place} was not passed`);
    const trials = this.#trialsOf(scene, passed).filter(({ fault }) => only(fault.place));
    const counts: TrialCounts = { scene: scene.name, places: new Set(passed).size, tried: 0, missed: 0, restarts: 0 };
    const before = this.#takeStock();
    const problems: string[] = [];
    for (const trial of trials) {
      try {
        await this.#try(scene, trial, before, counts);
      } catch (err) {
        problems.push(`${name(trial)}: ${err instanceof Error ? err.message : String(err)}`);
        await this.#repair();
      }
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
    const last = new Map(passed.map((place, index) => [place, index]));
    const trials = passed.flatMap((place, index) => {
      const skip = seen.get(place) ?? 0;
      seen.set(place, skip + 1);
      if (place.startsWith('call ')) {
        return ALL || skip === 0 || last.get(place) === index ? callTrials(place, skip) : [];
      }
      return place.startsWith('process ') ? processTrials(place, skip) : stepTrials(place, skip);
    });
    const undoTrials = scene.pipelines.flatMap((pipeline) => this.#undoTrials(pipeline));
    // Those first that berthd lives on after: what it loses adds up.
    const all = [...trials, ...undoTrials];
    return [...all.filter((trial) => !kills(trial)), ...all.filter(kills)];
  }

  /** The last step that has an undo fails when it is done, and then something is wrong with an undo too. */
  #undoTrials(pipeline: string): Trial[] {
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
      return ways.map((way) => ({ fault, more: [way], mustStrike: true }));
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
    const struck = armed.every(({ hasStruck }) => hasStruck);
    if (!struck) counts.missed += 1;
    if (trial.mustStrike) assert.ok(struck, 'it did not strike');
    if (struck && isHang) {
      assert.equal(
        (failure as { code?: number } | undefined)?.code,
        grpc.DEADLINE_EXCEEDED,
        `told: ${String(failure)}`,
      );
      if (!fault.place.startsWith('call '))
        await this.#lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create(), SERVING_MS);
    }
    this.#faults.clear();
    if (struck && kills(trial)) {
      counts.restarts += 1;
      await this.#lab.berthd.end('SIGKILL');
      await this.#lab.berthd.start();
    } else if (struck && fault.action === 'error' && fault.phase !== 'after' && isStep(fault.place)) {
      assert.ok(String(failure).includes(`fault at ${fault.place}`), `told: ${String(failure)}`);
    }
    if (scene.again) await scene.again(context);
    else await scene.ask(context, PATIENT_MS);
    await scene.verify(context);
    await this.#clean(scene, context);
    await this.#assertAsBefore(before, struck && kills(trial));
  }

  async #clean<C>(scene: Scene<C>, context: C): Promise<void> {
    await scene.clean?.(context);
    await this.#lab.afterTest({});
  }

  /** Has the next trial begin with a berthd that has nothing. */
  async #repair(): Promise<void> {
    this.#faults.clear();
    await this.#lab.berthd.end('SIGKILL');
    await this.#lab.berthd.start();
    await this.#lab.afterTest({}).catch(() => {});
  }

  #takeStock(): Stock {
    const { berthd } = this.#lab;
    return { machine: readMachineState(), files: [...listAll(berthd.root), ...listAll(berthd.state)], descriptors: 0 };
  }

  async #assertAsBefore(before: Stock, isNew: boolean): Promise<void> {
    let left: unknown;
    await eventually(
      'all is as before',
      () => {
        left = difference(before, this.#takeStock());
        return left === undefined ? true : undefined;
      },
      SETTLE_MS,
    ).catch(() => assert.fail(`left: ${JSON.stringify(left)}`));
    // A new daemon has a thread or two less, and nothing to compare with.
    if (!isNew) await this.#assertDescriptors();
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
      SETTLE_MS,
    ).catch(() => assert.fail(`berthd holds ${open.join(' ')}`));
  }
}

interface Stock {
  readonly machine: MachineState;
  readonly files: readonly string[];
  readonly descriptors: number;
}

function difference(before: Stock, after: Stock): unknown {
  const left: Record<string, readonly string[]> = {};
  for (const kind of ['mounts', 'processes', 'cgroups', 'links', 'rules'] as const) {
    const known = new Set(before.machine[kind]);
    // A berthd that was started again is no leftover.
    const added = after.machine[kind].filter((item) => !known.has(item) && !/berthd|src\/main/.test(item));
    if (added.length > 0) left[kind] = added;
  }
  const known = new Set(before.files);
  const files = after.files.filter((file) => !known.has(file));
  if (files.length > 0) left['files'] = files;
  return Object.keys(left).length > 0 ? left : undefined;
}

/** All files below a folder, but those that come and go without a pod. */
function listAll(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return names
    .filter((file) => !/^(logs|berth\.db|berthd\.log|addresses)/.test(file))
    .map((file) => join(folder, file));
}

/** What berthd has open that belongs to some pod, container or pull: pipes, sockets of its own, processes, files. */
function descriptorsOf(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      const target = readlinkSync(join(folder, fd));
      const isPidfd =
        target === 'anon_inode:[pidfd]' && !/^Pid:\t-1$/m.test(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'));
      return isPidfd || / \(deleted\)$|\/(sandboxes|containers|snapshots|ingest|exits\/.)/.test(target)
        ? [`${fd} ${target}`]
        : [];
    } catch {
      return [];
    }
  });
}

function isStep(place: string): boolean {
  return !place.startsWith('call ') && !place.startsWith('process ');
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
  return ways.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: true }));
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
  // A process that is only started, and followed by its answers, has no middle.
  return ways.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: way.phase !== 'during' }));
}

function callTrials(place: string, skip: number): Trial[] {
  const ways: Omit<FaultFields, 'place'>[] = [
    { action: 'error', error: 'EIO' },
    { action: 'kill' },
    ...(ALL ? ([{ action: 'hang' }, { action: 'kill', phase: 'after' }] as const) : []),
  ];
  return ways.map((way) => ({ fault: { place, skip, ...way }, more: [], mustStrike: false }));
}

function kills({ fault, more }: Trial): boolean {
  return [fault, ...more].some(({ action }) => action === 'kill');
}

function name({ fault, more }: Trial): string {
  return [fault, ...more]
    .map(({ place, phase = 'before', action = 'error', skip = 0, script }) => {
      const way = Object.entries(STAND_INS).find(([, text]) => text === script)?.[0] ?? `${action} ${phase}`;
      return `${place}${skip > 0 ? ` (${skip + 1})` : ''} ${way}`;
    })
    .join(', then ');
}
