import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { type CreationRequest, Creations, type Make } from './creations.ts';

const patient = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Things that are made when the test says so, and what has become of them. */
class Bench {
  readonly log: string[] = [];
  readonly stalls: string[] = [];
  readonly shutdown = new AbortController();
  readonly creations: Creations<string, string>;
  /** Of the newest creation. */
  finish: () => void = () => {};
  fail: (err: Error) => void = () => {};
  discard: () => Promise<void> = async () => {};
  #count = 0;

  constructor(keptMs = 60_000) {
    this.creations = new Creations<string, string>({
      kind: 'sandbox',
      pipeline: 'RunPodSandbox',
      isSame: (one, other) => one === other,
      log: silentLogger,
      meter: { ...silentMeter, stalled: (pipeline, step) => void this.stalls.push(`${pipeline} ${step}`) },
      shutdown: this.shutdown.signal,
      keptMs,
    });
  }

  readonly make: Make<string> = async (onStep, signal) => {
    this.#count += 1;
    const id = `id-${this.#count}`;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.finish = resolve;
    this.fail = reject;
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    onStep('attach network');
    this.log.push(`make ${id}`);
    try {
      await promise;
    } catch (err) {
      this.log.push(`rolled back ${id}`);
      throw err;
    }
    signal.removeEventListener('abort', onAbort);
    return {
      id,
      claim: async () => {
        this.log.push(`claim ${id}`);
        return id;
      },
      discard: async () => {
        this.log.push(`discard ${id}`);
        await this.discard();
      },
    };
  };

  async get(request: CreationRequest<string>, signal: AbortSignal = patient): Promise<string> {
    return await this.creations.get(request, this.make, signal);
  }

  /** A client that asks and leaves; what it is told. */
  async leave(request: CreationRequest<string>, reason = new BerthError('deadline', 'over')): Promise<unknown> {
    const client = new AbortController();
    const answer = this.get(request, client.signal).then(
      () => assert.fail('it got an answer'),
      (err: unknown) => err,
    );
    await turn();
    client.abort(reason);
    return await answer;
  }
}

const request = (attempt = 0, spec = 'spec', owner = ''): CreationRequest<string> => ({
  name: `web_${attempt}`,
  group: 'web',
  owner,
  spec,
});

suite('creations', () => {
  test('the same request joins the one in flight', async () => {
    const bench = new Bench();
    const both = [bench.get(request()), bench.get(request())];
    bench.finish();
    assert.deepEqual(await Promise.all(both), ['id-1', 'id-1']);
    assert.deepEqual(bench.log, ['make id-1', 'claim id-1']);
    assert.ok(!bench.creations.has('web_0'));
  });

  test('a client whose time is over is told the step, and the work goes on for who asks again', async () => {
    const bench = new Bench();
    const told = await bench.leave(request());
    assert.ok(told instanceof BerthError);
    assert.equal(told.kind, 'deadline');
    assert.match(
      told.message,
      /^sandbox web_0 is not ready after 0\.\d s, still at "attach network"; ask again for it$/,
    );
    assert.deepEqual(bench.stalls, ['RunPodSandbox attach network']);
    const again = bench.get(request());
    bench.finish();
    assert.equal(await again, 'id-1');
    assert.deepEqual(bench.log, ['make id-1', 'claim id-1']);
  });

  test('a client that leaves by itself is no stall', async () => {
    const bench = new Bench();
    const told = await bench.leave(request(), new BerthError('cancelled', 'gone'));
    assert.ok(told instanceof BerthError && told.kind === 'cancelled');
    assert.deepEqual(bench.stalls, []);
  });

  test('what is made for nobody is kept, and given to the same request', async () => {
    const bench = new Bench();
    await bench.leave(request());
    bench.finish();
    await turn();
    assert.deepEqual(bench.log, ['make id-1']);
    assert.ok(bench.creations.has('web_0'));
    assert.deepEqual(await Promise.all([bench.get(request()), bench.get(request())]), ['id-1', 'id-1']);
    assert.deepEqual(bench.log, ['make id-1', 'claim id-1']);
  });

  test('what nobody claims is undone after a while', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const bench = new Bench(90_000);
    await bench.leave(request());
    bench.finish();
    await turn();
    t.mock.timers.tick(89_999);
    await turn();
    assert.deepEqual(bench.log, ['make id-1']);
    t.mock.timers.tick(1);
    await turn();
    assert.deepEqual(bench.log, ['make id-1', 'discard id-1']);
    assert.ok(!bench.creations.has('web_0'));
  });

  test('another attempt has the one that nobody waits for cleaned up, made or not', async () => {
    const bench = new Bench();
    await bench.leave(request(0));
    bench.finish();
    await turn();
    await bench.leave(request(1));
    const third = bench.get(request(2));
    await turn();
    bench.finish();
    assert.equal(await third, 'id-3');
    assert.deepEqual(bench.log, [
      'make id-1',
      'make id-2',
      'discard id-1',
      'make id-3',
      'rolled back id-2',
      'claim id-3',
    ]);
  });

  test('another attempt leaves alone what a client waits for, and what belongs to others', async () => {
    const bench = new Bench();
    const first = bench.get(request(0));
    const { finish } = bench;
    const second = bench.get(request(1));
    finish();
    bench.finish();
    assert.deepEqual(await Promise.all([first, second]), ['id-1', 'id-2']);
    await bench.leave({ name: 'db_0', group: 'db', owner: '', spec: '' });
    bench.finish();
    await bench.leave(request(3));
    assert.ok(bench.creations.has('db_0'));
  });

  test('the same name with another configuration waits for the clean-up, and is made anew', async () => {
    const bench = new Bench();
    await bench.leave(request(0, 'old'));
    bench.finish();
    await turn();
    const discarded = Promise.withResolvers<void>();
    bench.discard = () => discarded.promise;
    const changed = bench.get(request(0, 'new'));
    const sameAsChanged = bench.get(request(0, 'new'));
    await turn();
    assert.deepEqual(bench.log, ['make id-1', 'discard id-1']);
    discarded.resolve();
    await turn();
    bench.finish();
    assert.deepEqual(await Promise.all([changed, sameAsChanged]), ['id-2', 'id-2']);
  });

  test('a request for what is being cleaned up waits for that, and is made anew', async () => {
    const bench = new Bench();
    await bench.leave(request(0));
    bench.finish();
    await turn();
    const discarded = Promise.withResolvers<void>();
    bench.discard = () => discarded.promise;
    const next = bench.get(request(1));
    await turn();
    bench.finish();
    assert.equal(await next, 'id-2');
    const again = bench.get(request(0));
    await turn();
    discarded.resolve();
    await turn();
    bench.finish();
    assert.equal(await again, 'id-3');
  });

  test('the same name with another configuration is refused while a client waits for the first', async () => {
    const bench = new Bench();
    const first = bench.get(request(0, 'old'));
    await assert.rejects(bench.get(request(0, 'new')), {
      kind: 'alreadyExists',
      message: /sandbox web_0 is being made/,
    });
    bench.finish();
    assert.equal(await first, 'id-1');
  });

  test('a failure goes to all who wait, and the next one tries anew', async () => {
    const bench = new Bench();
    const both = [bench.get(request()), bench.get(request())];
    bench.fail(new BerthError('unavailable', 'no network'));
    for (const result of await Promise.allSettled(both)) {
      assert.equal(result.status, 'rejected');
      assert.equal((result.reason as Error).message, 'no network');
    }
    const again = bench.get(request());
    bench.finish();
    assert.equal(await again, 'id-2');
  });

  test('a failure that nobody waits for is nobody’s', async () => {
    const bench = new Bench();
    await bench.leave(request());
    bench.fail(new Error('too late'));
    await turn();
    assert.ok(!bench.creations.has('web_0'));
  });

  test('what cannot be undone keeps nobody from asking again', async () => {
    const bench = new Bench();
    await bench.leave(request(0, 'old'));
    bench.finish();
    await turn();
    bench.discard = async () => {
      throw new Error('stuck');
    };
    const again = bench.get(request(0, 'new'));
    await turn();
    bench.finish();
    assert.equal(await again, 'id-2');
  });

  test('what is made for an owner that goes is given up, waited for or not', async () => {
    const bench = new Bench();
    await bench.leave(request(0, 'spec', 'pod'));
    bench.finish();
    await turn();
    const waiting = bench.get({ name: 'db_0', group: 'db', owner: 'pod', spec: '' });
    const other = bench.get({ name: 'app_0', group: 'app', owner: 'other', spec: '' });
    await bench.creations.discardOf('pod', 'the pod is stopped');
    await assert.rejects(waiting, { kind: 'cancelled', message: /db_0 is given up: the pod is stopped/ });
    assert.deepEqual(bench.log.slice(-2).toSorted(), ['discard id-1', 'rolled back id-2']);
    bench.finish();
    assert.equal(await other, 'id-3');
  });

  test('the end of berthd undoes what nobody has claimed, and waits for the work in flight', async () => {
    const bench = new Bench();
    await bench.leave(request(0));
    bench.finish();
    await turn();
    const waiting = bench.get({ name: 'db_0', group: 'db', owner: '', spec: '' });
    bench.shutdown.abort(new BerthError('cancelled', 'berthd is stopping'));
    const [closed, failed] = await Promise.allSettled([bench.creations.close(), waiting]);
    assert.deepEqual([closed.status, failed.status], ['fulfilled', 'rejected']);
    assert.deepEqual(bench.log.slice(-2).toSorted(), ['discard id-1', 'rolled back id-2']);
  });

  test('what is ready when berthd is told to stop goes to the client that waits for it', async () => {
    const bench = new Bench();
    const claimed = { id: 'id', claim: async () => 'claimed', discard: () => assert.fail('it was undone') };
    const waiting = bench.creations.get(
      request(),
      async () => {
        bench.shutdown.abort(new BerthError('cancelled', 'berthd is stopping'));
        return claimed;
      },
      patient,
    );
    assert.equal(await waiting, 'claimed');
    await bench.creations.close();
  });
});
