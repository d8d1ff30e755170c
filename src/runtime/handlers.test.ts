import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import { Processes } from '../proc/processes.ts';
import { openCgroups } from './cgroups/open-cgroups.ts';
import { findProgram, Handlers, type ProbeDeps, parseFeatures } from './handlers.ts';

const signal = AbortSignal.timeout(120_000);

describe('parseFeatures', () => {
  const runc = JSON.stringify({
    mountOptions: ['ro', 'rro'],
    linux: { namespaces: ['mount', 'user'] },
  });

  it('reads what a runtime can do', () => {
    const kernel = (can: boolean) => ({ kernelHasRecursiveReadOnly: can, kernelMapsIds: can });
    assert.deepEqual(parseFeatures(runc, kernel(true)), {
      recursiveReadOnlyMounts: true,
      userNamespaces: true,
      checkpoint: false,
    });
    assert.deepEqual(parseFeatures(runc, kernel(false)), {
      recursiveReadOnlyMounts: false,
      userNamespaces: false,
      checkpoint: false,
    });
  });

  it('knows nothing of any other text', () => {
    for (const text of [
      '',
      '{}',
      '[]',
      'null',
      '{"mountOptions":"rro","linux":{"namespaces":"user"}}',
      'unknown command',
    ]) {
      const found = parseFeatures(text, { kernelHasRecursiveReadOnly: true, kernelMapsIds: true });
      assert.deepEqual(found, { recursiveReadOnlyMounts: false, userNamespaces: false, checkpoint: false }, text);
    }
  });
});

describe('Handlers', () => {
  let folder = '';
  const processes = new Processes({ log: silentLogger, meter: silentMeter });
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-handlers-'));
    // Each verb leaves a trace, so that a test can count the trials.
    script('good', 'exit 0');
    script('bad', 'if [ "$verb" = create ]; then echo "no cgroups here" >&2; exit 1; fi; exit 0');
    script('broken', 'if [ "$1" = --version ]; then echo "out of order" >&2; exit 1; fi');
    writeFileSync(join(folder, 'pause'), '');
  });
  after(async () => {
    await processes.close();
    rmSync(folder, { recursive: true });
  });

  function script(name: string, body: string): void {
    const file = join(folder, name);
    writeFileSync(
      file,
      `#!/bin/sh\nverb=$3\necho "${name} $verb" >> ${folder}/trace\n[ "$1" = --version ] && echo "${name} version 1"\n${body}\n`,
    );
    chmodSync(file, 0o755);
  }

  async function probe(handlers: Record<string, string>, defaultRuntime: string, state: string): Promise<Handlers> {
    const stateDir = join(folder, state);
    mkdirSync(stateDir, { recursive: true });
    const deps: ProbeDeps = {
      handlers: Object.fromEntries(
        Object.entries(handlers).map(([name, path]) => [
          name,
          { path: join(folder, path), root: '', annotations: [], privilegedWithoutHostDevices: false },
        ]),
      ),
      defaultRuntime,
      stateDir,
      pausePath: join(folder, 'pause'),
      cgroups: openCgroups('cgroupfs'),
      kernelHasRecursiveReadOnly: true,
      kernelMapsIds: true,
      processes,
      log: silentLogger,
    };
    return await Handlers.probe(deps, signal);
  }

  it('finds handlers by name, and the default by none', async () => {
    const handlers = await probe({ runc: 'good', special: 'good' }, 'special', 's1');
    assert.equal(handlers.get('').name, 'special');
    const { root, version, path } = handlers.get('runc');
    assert.deepEqual([root, version, path], [join(folder, 's1/runtime/runc'), 'good version 1', join(folder, 'good')]);
  });

  it('names the known ones for an unknown one', async () => {
    const handlers = await probe({ runc: 'good', special: 'good' }, 'runc', 's1');
    assert.throws(() => handlers.get('gvisor'), {
      kind: 'invalid',
      message: 'runtime_handler: gvisor is not one of runc, special',
    });
    await assert.rejects(probe({ runc: 'good' }, 'gvisor', 's1'), {
      kind: 'invalid',
      message: /default_runtime: gvisor/,
    });
  });

  it('keeps a broken one listed with its reason', async () => {
    const handlers = await probe({ runc: 'good', missing: 'nowhere', broken: 'broken' }, 'runc', 's1');
    assert.deepEqual(
      handlers.all().map(({ name }) => name),
      ['runc'],
    );
    assert.equal(handlers.statuses().length, 3);
    assert.throws(() => handlers.get('missing'), { kind: 'precondition', message: /nowhere is not installed/ });
    assert.throws(() => handlers.get('broken'), { kind: 'precondition', message: /out of order/ });
  });

  it('becomes others, and keeps one that is gone for what runs with it', async () => {
    const handlers = await probe({ runc: 'good', special: 'good' }, 'special', 's1');
    const next = await probe({ runc: 'good', newer: 'good' }, 'newer', 's1');
    handlers.become(next);
    assert.equal(handlers.defaultName, 'newer');
    assert.deepEqual(
      handlers.statuses().map(({ name }) => name),
      ['runc', 'newer'],
    );
    assert.equal(handlers.get('special').name, 'special');
    assert.equal(handlers.find('special')?.name, 'special');
    assert.throws(() => handlers.get('unknown'), { kind: 'invalid' });
  });

  it('prefers crun where it works', async () => {
    assert.equal((await probe({ runc: 'good', crun: 'good' }, 'auto', 's2')).defaultName, 'crun');
  });

  it('takes runc where crun does not work, and remembers', async () => {
    const names = { runc: 'good', crun: 'bad' };
    assert.equal((await probe(names, 'auto', 's3')).defaultName, 'runc');
    rmSync(join(folder, 'trace'));
    assert.equal((await probe(names, 'auto', 's3')).defaultName, 'runc');
    assert.doesNotMatch(readFileSync(join(folder, 'trace'), 'utf8'), /create/);
    const { trials } = await probe(names, 'auto', 's3');
    assert.deepEqual(trials.get('crun'), { passed: false, reason: 'no cgroups here', isFinal: true });
  });

  it('has a default even if none works', async () => {
    assert.equal((await probe({ runc: 'bad', crun: 'bad' }, 'auto', 's4')).defaultName, 'crun');
    const broken = await probe({ runc: 'nowhere' }, 'auto', 's5');
    assert.throws(() => broken.get(''), { kind: 'precondition', message: /nowhere is not installed/ });
  });
});

describe('findProgram', () => {
  it('looks in PATH', () => {
    assert.equal(findProgram('sh', '/nowhere:/bin'), '/bin/sh');
    assert.throws(() => findProgram('sh', ''), { kind: 'notFound' });
    assert.throws(() => findProgram('/etc/passwd'), { kind: 'notFound', message: /not executable/ });
  });
});
