import assert from 'node:assert/strict';
import { test } from 'node:test';

import { KeyedLock } from '../base/keyed-lock.ts';
import { silentLogger } from '../base/log.ts';
import type { Step } from '../base/steps.ts';
import { type CreationPipeline, makeUnclaimed } from './creation-pipeline.ts';
import type { Unclaimed } from './creations.ts';
import type { PodDeps } from './pod-deps.ts';
import { RecordIndex } from './record-index.ts';

interface Thing {
  readonly id: string;
  readonly name: string;
  readonly state: string;
}

interface Context {
  readonly deps: PodDeps;
  readonly id: string;
}

const never = new AbortController().signal;

/** Three steps, of which the last shows the thing; a test names what shall fail: `run two`, `undo one`, `store`. */
class Bench {
  readonly log: string[] = [];
  readonly things = new RecordIndex<Thing>('sandbox', { put: () => this.#store(), delete: () => this.#store() }, []);
  readonly failing = new Set<string>();
  readonly #deps = {
    log: silentLogger,
    locks: new KeyedLock(),
    journals: {
      open: () => ({ begin() {}, end() {}, undone() {} }),
      finish: (pipeline: string) => void this.log.push(`finish ${pipeline}`),
      forget() {},
    },
  } as unknown as PodDeps;

  async make(onStep: (step: string) => void = () => {}): Promise<Unclaimed<Thing>> {
    const pipeline: CreationPipeline<Thing, Context> = {
      name: 'RunPodSandbox',
      kind: 'sandbox',
      steps: [this.#step('one'), this.#step('two'), this.#step('show', () => this.#set('ready'))],
      records: () => this.things,
      withState: (thing, state) => ({ ...thing, state }),
      forget: ({ id }) => this.things.delete(id),
    };
    const thing = { id: 'a', name: 'web', state: 'creating' };
    return await makeUnclaimed(pipeline, thing, { deps: this.#deps, id: 'a' }, onStep, never);
  }

  get state(): string {
    return this.things.find('a')?.state ?? 'gone';
  }

  #store(): void {
    if (this.failing.has('store')) throw new Error('the database is locked');
  }

  #set(state: string): void {
    this.things.put({ ...this.things.get('a'), state });
  }

  #step(name: string, work = (): void => {}): Step<Context> {
    const act = (what: string): void => {
      this.log.push(what);
      if (this.failing.has(what)) throw new Error(`cannot ${what}`);
    };
    return {
      name,
      run() {
        act(`run ${name}`);
        work();
      },
      undo: () => act(`undo ${name}`),
    };
  }
}

test('what is made is invisible until it is claimed', async () => {
  const bench = new Bench();
  const steps: string[] = [];
  const made = await bench.make((step) => steps.push(step));
  assert.deepEqual([bench.state, steps, bench.log], ['creating', ['one', 'two'], ['run one', 'run two']]);
  assert.equal((await made.claim()).state, 'ready');
  assert.deepEqual(bench.log.slice(2), ['run show', 'finish RunPodSandbox']);
});

test('a step that fails has all undone', async () => {
  const bench = new Bench();
  bench.failing.add('run two');
  await assert.rejects(bench.make(), { message: 'run sandbox web (a)' });
  assert.deepEqual([bench.state, bench.log], ['gone', ['run one', 'run two', 'undo two', 'undo one']]);
});

test('what cannot be undone stays, for its client to remove', async () => {
  const bench = new Bench();
  bench.failing.add('run two').add('undo one');
  await assert.rejects(bench.make());
  assert.deepEqual([bench.state, bench.log.at(-1)], ['unknown', 'finish RunPodSandbox']);
});

test('what nobody claims is undone, once', async () => {
  const bench = new Bench();
  const made = await bench.make();
  await Promise.all([made.discard(), made.discard()]);
  assert.deepEqual([bench.state, bench.log.slice(2)], ['gone', ['undo show', 'undo two', 'undo one']]);
  await assert.rejects(made.claim(), { kind: 'unavailable', message: /removed while it was made/ });
});

test('what nobody claims and cannot be undone stays, for its client to remove', async () => {
  const bench = new Bench();
  const made = await bench.make();
  bench.failing.add('undo one');
  await made.discard();
  assert.equal(bench.state, 'unknown');
});

test('what cannot be shown is undone', async () => {
  const bench = new Bench();
  const made = await bench.make();
  bench.failing.add('run show');
  await assert.rejects(made.claim(), { message: 'run sandbox web (a)' });
  assert.equal(bench.state, 'gone');
  assert.deepEqual(bench.log.slice(-2), ['undo two', 'undo one']);
});

test('what was claimed is not undone', async () => {
  const bench = new Bench();
  const made = await bench.make();
  await made.claim();
  await made.discard();
  assert.equal(bench.state, 'ready');
});

for (const undo of ['works', 'fails']) {
  test(`a store that takes nothing during a rollback that ${undo} hides nothing`, async () => {
    const bench = new Bench();
    const made = await bench.make();
    bench.failing.add('run show').add('store');
    if (undo === 'fails') bench.failing.add('undo one');
    await assert.rejects(made.claim(), { message: 'run sandbox web (a)' });
    assert.deepEqual([bench.state, bench.log.at(-1)], ['unknown', 'undo one']);
    bench.failing.delete('store');
    bench.things.delete('a');
    assert.equal(bench.state, 'gone');
  });
}
