import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import { BerthError, isKind } from '../base/errors.ts';
import { killProcess } from '../sys/process.ts';
import { killMarked, newMark, type ProcessFacts, parseMark, parseStat, relatives } from './process-tree.ts';

function facts(pid: number, parent: number, session: number, state = 'S'): ProcessFacts {
  return { pid, parent, session, state, startTime: pid };
}

function pids(found: readonly ProcessFacts[]): number[] {
  return found.map(({ pid }) => pid).sort((a, b) => a - b);
}

describe('relatives', () => {
  const all = [
    facts(1, 0, 1),
    facts(5, 1, 5),
    facts(10, 5, 10),
    facts(11, 10, 11),
    facts(12, 11, 11),
    facts(13, 1, 11), // Forked twice: only its session tells where it comes from.
    facts(14, 13, 14),
    facts(15, 11, 11, 'Z'),
    facts(20, 1, 20),
    facts(30, 1, 5),
    facts(31, 30, 5), // Its root has not left the session of 5 yet.
  ];

  it('finds descendants, what left the tree but not the session, and its children', () => {
    assert.deepEqual(pids(relatives(all, 10, 5)), [11, 12, 13, 14]);
  });

  it('finds nobody for a process without children', () => {
    assert.deepEqual(relatives(all, 20, 5), []);
  });

  it("never takes in the stranger's session", () => {
    assert.deepEqual(pids(relatives(all, 30, 5)), [31]);
  });
});

describe('parseStat', () => {
  it('reads a process of this machine', () => {
    const found = parseStat(readFileSync('/proc/self/stat', 'latin1'));
    assert.equal(found?.pid, process.pid);
    assert.equal(found?.parent, process.ppid);
  });

  it('is not fooled by a name', () => {
    const rest = Array.from({ length: 46 }, (_, i) => String(i)).join(' ');
    assert.deepEqual(parseStat(`7 (a) S 1 (x) R 3 4 5 ${rest}`), {
      pid: 7,
      state: 'R',
      parent: 3,
      session: 5,
      startTime: 15,
    });
  });

  it('takes no other text', () => {
    for (const text of ['', 'x', '7 (a)', '7 (a) S 1']) assert.equal(parseStat(text), undefined);
  });
});

describe('marks', () => {
  it('are numbers that no program uses, each another', () => {
    const marks = Array.from({ length: 100 }, newMark);
    assert.equal(new Set(marks).size, marks.length);
    for (const mark of marks) assert.ok(Number.isSafeInteger(mark) && mark >= 2 ** 52);
  });

  it('are read from the limits of a process', () => {
    const own = readFileSync('/proc/self/limits', 'latin1');
    assert.equal(parseMark(own.replace(/(?<=realtime timeout +)\S+/, '4503599627370497')), 4_503_599_627_370_497);
    assert.equal(parseMark(own.replace(/(?<=realtime timeout +)\S+/, 'unlimited')), undefined);
    assert.equal(parseMark(''), undefined);
  });
});

describe('killMarked', () => {
  const isAlive = (pid: number): boolean => {
    try {
      return parseStat(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.state !== 'Z';
    } catch {
      return false;
    }
  };
  const processes = {
    async exitOf(pid: number) {
      while (isAlive(pid)) await pause(5);
    },
  };

  it('ends all others when one takes no signal, and says so', { timeout: 120_000 }, async (t) => {
    // The first line is there when both are.
    const script = 'sleep 1000 & a=$!; sleep 1000 & echo $a $!; wait';
    const root = spawn('sh', ['-c', script], { detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
    const { pid = 0 } = root;
    t.after(() => process.kill(-pid, 'SIGKILL'));
    const [line] = (await once(root.stdout, 'data')) as [Buffer];
    const [denying = 0, other = 0] = String(line).split(' ').map(Number);
    const send: typeof killProcess = (to, startTime, signal) => {
      if (to === denying) throw new BerthError('permission', 'denied by a profile');
      return killProcess(to, startTime, signal);
    };
    await assert.rejects(killMarked(newMark(), pid, processes, AbortSignal.timeout(60_000), send), (err) =>
      isKind(err, 'permission'),
    );
    assert.deepEqual([isAlive(denying), isAlive(other)], [true, false]);
  });
});
