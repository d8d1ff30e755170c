import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { Processes } from '../../src/proc/processes.ts';
import { readHierarchies } from '../../src/runtime/cgroups/hierarchies.ts';
import { openCgroups } from '../../src/runtime/cgroups/open-cgroups.ts';
import { HandlerTrials } from '../../src/runtime/handler-trials.ts';
import { Handlers, type ProbeDeps } from '../../src/runtime/handlers.ts';
import { mountHugetlb } from './runtime-lab.ts';

const signal = AbortSignal.timeout(900_000);

describe('handlers of this machine', () => {
  const processes = new Processes({ log: silentLogger, meter: silentMeter });
  let folder = '';
  before(() => {
    folder = mkdtempSync('/tmp/berth-handlers-');
    const source = join(folder, 'pause.c');
    writeFileSync(source, '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n');
    execFileSync('gcc', ['-static', '-o', join(folder, 'pause'), source]);
  });
  after(async () => {
    await processes.close();
    rmSync(folder, { recursive: true });
  });

  const handler = (path: string) => ({ path, root: '', annotations: [], privilegedWithoutHostDevices: false });
  const deps = (): ProbeDeps => ({
    handlers: { runc: handler('runc'), crun: handler('crun') },
    defaultRuntime: 'auto',
    stateDir: folder,
    pausePath: join(folder, 'pause'),
    cgroups: openCgroups('cgroupfs'),
    kernelHasRecursiveReadOnly: true,
    kernelMapsIds: true,
    processes,
    log: silentLogger,
  });

  it('knows version and features of each', async () => {
    const handlers = await Handlers.probe(deps(), signal);
    assert.match(handlers.get('runc').version, /^runc version/);
    assert.match(handlers.get('crun').version, /^crun version/);
    assert.ok(['crun', 'runc'].includes(handlers.defaultName));
    assert.ok(handlers.get('runc').features.recursiveReadOnlyMounts, 'runc 1.1 can make mounts read-only recursively');
  });

  it('finds runc working, leaves nothing of its trial, and asks no second time', async () => {
    rmSync(join(folder, 'handler-trials.json'), { force: true });
    const handlers = await Handlers.probe({ ...deps(), defaultRuntime: 'runc' }, signal);
    const trials = new HandlerTrials(deps());
    const first = await trials.run([handlers.get('runc')], signal);
    assert.deepEqual(first.get('runc'), { passed: true, reason: '', isFinal: true });
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('trial-')),
      [],
    );
    assert.doesNotMatch(execFileSync('find', ['/sys/fs/cgroup', '-name', 'berth-trial*'], { encoding: 'utf8' }), /./);
    const none = { run: () => assert.fail('asked again'), start: () => assert.fail('tried again') };
    const second = new HandlerTrials({ ...deps(), processes: none });
    assert.deepEqual(await second.run([handlers.get('runc')], signal), first);
    assert.match(readFileSync(join(folder, 'handler-trials.json'), 'utf8'), /"passed":true/);
  });

  it('removes the cgroup that a runtime forgets, and what runs in it', async () => {
    const [hierarchy] = readHierarchies();
    assert.ok(hierarchy);
    const forgetful = join(folder, 'forgetful');
    const create = [
      `cgroup=${hierarchy.mountPoint}$(sed 's/.*"cgroupsPath":"\\([^"]*\\)".*/\\1/' "$5/config.json")`,
      'mkdir "$cgroup"',
      'sleep 1000 &',
      'echo $! > "$cgroup/cgroup.procs"',
    ].join('\n');
    writeFileSync(
      forgetful,
      `#!/bin/sh\n[ "$1" = --version ] && echo version\nif [ "$3" = create ]; then\n${create}\nfi\nexit 0\n`,
    );
    chmodSync(forgetful, 0o755);
    const some = { ...deps(), handlers: { forgetful: handler(forgetful) }, defaultRuntime: 'forgetful' };
    const handlers = await Handlers.probe(some, signal);
    const results = await new HandlerTrials(some).run(handlers.all(), signal);
    assert.deepEqual(results.get('forgetful'), { passed: true, reason: '', isFinal: true });
    const left = readdirSync(hierarchy.mountPoint).filter((name) => name.startsWith('berth-trial-'));
    assert.deepEqual(left, []);
    rmSync(join(folder, 'handler-trials.json'));
  });

  it('finds crun working where cgroups are as it wants them', async (t) => {
    await using hugetlb = mountHugetlb();
    rmSync(join(folder, 'handler-trials.json'), { force: true });
    const handlers = await Handlers.probe({ ...deps(), defaultRuntime: 'runc' }, signal);
    const results = await new HandlerTrials(deps()).run(handlers.all(), signal);
    // In a cgroup namespace of its own nobody may mount a new hierarchy; crun may do without one there.
    if (!hugetlb && !results.get('crun')?.passed) return t.skip('no v1 hugetlb hierarchy can be mounted here');
    assert.deepEqual(Object.fromEntries(results), {
      runc: { passed: true, reason: '', isFinal: true },
      crun: { passed: true, reason: '', isFinal: true },
    });
  });

  it('tells why a runtime fails', async () => {
    const handlers = await Handlers.probe({ ...deps(), defaultRuntime: 'runc' }, signal);
    writeFileSync(join(folder, 'no-program'), 'not a program');
    const trials = new HandlerTrials({ ...deps(), pausePath: join(folder, 'no-program') });
    rmSync(join(folder, 'handler-trials.json'), { force: true });
    const failed = (await trials.run([handlers.get('runc')], signal)).get('runc');
    assert.equal(failed?.passed, false);
    assert.match(failed?.reason ?? '', /pause/);
    rmSync(join(folder, 'handler-trials.json'));
  });
});
