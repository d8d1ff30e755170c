import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { refusedLimit, runtimeMessage, saysNoCommand, saysNoContainer } from './runtime-output.ts';

describe('runtimeMessage', () => {
  it("takes the errors out of a runtime's JSON", () => {
    const text = [
      '{"level":"warning","msg":"odd"}',
      '{"level":"error","msg":"runc create failed: x","time":"2026-11-21T07:24:34Z"}',
      '{"level":"error","msg":"runc create failed: x"}',
      'output of a program',
    ].join('\n');
    assert.equal(runtimeMessage(text), 'runc create failed: x');
  });

  it('takes plain text as it is, on one line', () => {
    assert.equal(runtimeMessage('conmon: no such option\n\n  see --help\n'), 'conmon: no such option; see --help');
  });

  it('never fails, and never grows', () => {
    fc.assert(fc.property(fc.string(), (text) => runtimeMessage(text).length <= 2000));
    fc.assert(fc.property(fc.json(), (text) => typeof runtimeMessage(text) === 'string'));
  });
});

describe('what messages say', () => {
  const noContainer = [
    'container does not exist',
    'error opening file `/run/crun/x/status`: No such file or directory',
    "cannot open directory '/run/crun/x': No such file or directory",
  ];
  const noCommand = [
    'runc create failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory',
    'exec: "nope": executable file not found in $PATH',
    'unable to start container process: exec: "/etc/passwd": permission denied',
    'executable file `/bin/nope` not found in $PATH: No such file or directory',
    'exec container process `/bin/script`: Exec format error',
  ];
  for (const message of noContainer) {
    it(`no container: ${message}`, () =>
      assert.deepEqual([saysNoContainer(message), saysNoCommand(message)], [true, false]));
  }
  for (const message of noCommand) {
    it(`no command: ${message}`, () =>
      assert.deepEqual([saysNoContainer(message), saysNoCommand(message)], [false, true]));
  }
  it('something else', () => {
    const message = 'error mounting "/x" to rootfs: no such file or directory';
    assert.deepEqual([saysNoContainer(message), saysNoCommand(message)], [false, false]);
  });
});

describe('the limit that was refused', () => {
  const refusals: readonly (readonly [message: string, limit: string | undefined])[] = [
    ['failed to write "4000" to cpuset.cpus: numerical result out of range', 'cpuset_cpus'],
    ['write to file `memory.max`: Device or resource busy', 'memory_limit_in_bytes'],
    ['unable to set memory limit to 1 (current usage: 2146304, peak usage: 2203648)', 'memory_limit_in_bytes'],
    ['the requested cgroup controller `nothing` is not available', 'unified'],
    ['container does not exist', undefined],
  ];
  for (const [message, limit] of refusals) it(message, () => assert.equal(refusedLimit(message), limit));
});
