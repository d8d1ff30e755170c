/** Layers that GNU tar has packed of any tree: what comes out is what went in. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { isErrno } from '../../src/sys/errno.ts';
import { LayerLab } from '../fakes/layer-lab.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';

const part = fc.stringMatching(/^[a-zA-Z0-9äß€ ._+-]{1,14}$/).filter((name) => !/^\.{1,2}$|^\.wh\./.test(name));
const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
const member = fc.record({
  path,
  kind: fc.constantFrom('file', 'file', 'sparse', 'folder', 'link', 'hardlink', 'fifo'),
  data: fc.string({ maxLength: 2000 }),
  target: fc.string({ minLength: 1, maxLength: 150, unit: fc.constantFrom('a', '/', '.', 'ä') }),
  mode: fc.constantFrom(0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o000),
  owner: fc.constantFrom(0, 1000, 65_534, 3_000_000),
  seconds: fc.integer({ min: 0, max: 2 ** 33 }),
});
type Drawn = typeof member extends fc.Arbitrary<infer M> ? M : never;
type Member = Omit<Drawn, 'owner' | 'mode'> & { readonly owner: number; readonly mode: number };

/** Makes what can be made; what is in the way of what was there before is left out. */
function make(top: string, members: readonly Member[]): void {
  let file: string | undefined;
  const made: [string, number][] = [];
  for (const { path: name, kind, data, target, mode, owner, seconds } of members) {
    const full = join(top, name);
    try {
      mkdirSync(join(full, '..'), { recursive: true });
      if (kind === 'folder') mkdirSync(full);
      else if (kind === 'link') symlinkSync(target, full);
      else if (kind === 'fifo') execFileSync('mkfifo', [full], { stdio: 'ignore' });
      else if (kind === 'hardlink' && file !== undefined) linkSync(file, full);
      else writeFileSync(full, data, { flag: 'wx' });
      if (kind === 'sparse') {
        truncateSync(full, 1_000_000);
        writeFileSync(full, 'end', { flag: 'a' });
      }
    } catch (err) {
      if (isErrno(err, 'EEXIST', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENOENT') || kind === 'fifo') continue;
      throw err;
    }
    if (kind === 'file' || kind === 'sparse') file = full;
    if (kind === 'link' || kind === 'hardlink') continue;
    chownSync(full, owner, owner);
    chmodSync(full, mode);
    made.push([full, seconds]);
  }
  // Last, since what is made in a folder changes its time.
  for (const [full, seconds] of made.toReversed()) lutimesSync(full, seconds, seconds);
}

/** ustar has 21 bits for an owner, and 33 for a time. */
function fitUstar(one: Drawn): Member {
  return { ...one, owner: one.owner % 65_536, seconds: Math.min(one.seconds, 2 ** 33 - 1) };
}

function portrait(folder: string): string[] {
  const facts = ['-printf', '%P|%y|%m|%U:%G|%l|%n\n'];
  const all = execFileSync('find', [folder, '-mindepth', '1', ...facts]).toString();
  const times = execFileSync('find', [folder, '-mindepth', '1', '!', '-type', 'l', '-printf', '%P|%Ts\n']).toString();
  const sums = execFileSync('find', ['.', '-type', 'f', '-exec', 'sha1sum', '{}', '+'], { cwd: folder }).toString();
  return `${all}${times}${sums}`.split('\n').sort();
}

describe('layers of GNU tar', { skip, timeout: 900_000 }, () => {
  for (const format of ['gnu', 'pax', 'oldgnu', 'ustar'] as const) {
    it(`hold what was packed as ${format}`, async () => {
      const lab = await LayerLab.open();
      try {
        const trees = fc.array(member, { minLength: 1, maxLength: 12 });
        const options = fc.subarray(format === 'ustar' ? [] : ['--sparse', '--hard-dereference']);
        await fc.assert(
          fc.asyncProperty(trees, options, async (members, more) => {
            const fitting = format === 'ustar' ? members.map(fitUstar) : members;
            const source = mkdtempSync(join(tmpdir(), 'berth-tree-'));
            make(source, fitting);
            const args = [`--format=${format}`, '--numeric-owner', ...more, '-C', source, '-cf', '-', '.'];
            const tar = execFileSync('tar', args, { maxBuffer: 1e8, stdio: ['ignore', 'pipe', 'ignore'] });
            const diffId = await lab.unpack(tar);
            const expected = portrait(source).map((line) =>
              more.includes('--hard-dereference') ? noCount(line) : line,
            );
            const found = portrait(lab.layers.path(diffId));
            assert.deepEqual(
              found.map((line) => (more.includes('--hard-dereference') ? noCount(line) : line)),
              expected,
            );
            await lab.layers.remove(diffId);
            rmSync(source, { recursive: true });
          }),
          { numRuns: 12 },
        );
      } finally {
        await lab.close();
      }
    });
  }
});

/** Without how many links there are: with --hard-dereference each is a file of its own. */
function noCount(line: string): string {
  return line.replace(/\|\d+$/, '');
}
