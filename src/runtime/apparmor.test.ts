import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { type Logger, silentLogger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import { AppArmor, parseProfiles } from './apparmor.ts';
import { BUILT_IN_PROFILE_TEXT, builtInProfile } from './apparmor-profile.ts';

const signal = AbortSignal.timeout(120_000);
const parser = ['/usr/sbin/apparmor_parser', '/sbin/apparmor_parser'].find(
  (path) => spawnSync(path, ['--version']).status === 0,
);

describe('AppArmor', () => {
  let folder: string;
  let warnings: unknown[];
  let oldPath: string;
  const log: Logger = { ...silentLogger, warn: (fields) => void warnings.push(fields) };
  const profiles = () => join(folder, 'profiles');
  const noteFile = () => join(folder, 'note');
  const open = (enabled = 'Y\n', defaultProfile = 'berth-default', load = () => {}) => {
    writeFileSync(join(folder, 'enabled'), enabled);
    const processes: Pick<Processes, 'runOk'> = {
      async runOk() {
        load();
        return {
          exitCode: 0,
          signal: undefined,
          stdout: Buffer.alloc(0),
          stderr: Buffer.alloc(0),
          truncated: false,
          durationMs: 1,
        };
      },
    };
    const files = { enabled: join(folder, 'enabled'), loaded: profiles(), owner: join(folder, 'owner') };
    return new AppArmor({ defaultProfile, processes, log, files, noteFile: noteFile() });
  };
  const loadBuiltIn = (): void => writeFileSync(profiles(), 'berth-default (enforce)\n', { flag: 'a' });

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-apparmor-'));
    warnings = [];
    writeFileSync(profiles(), 'docker-default (enforce)\nmine (complain)\n');
    writeFileSync(join(folder, 'apparmor_parser'), '');
    chmodSync(join(folder, 'apparmor_parser'), 0o755);
    oldPath = process.env['PATH'] ?? '';
    process.env['PATH'] = folder;
  });
  afterEach(() => {
    process.env['PATH'] = oldPath;
    rmSync(folder, { recursive: true });
  });

  it('takes a profile that is loaded now, and says so when there is none', async () => {
    const apparmor = open();
    assert.equal(await apparmor.resolve({ type: 'localhost', reference: 'mine' }, signal), 'mine');
    assert.equal(await apparmor.resolve({ type: 'localhost', reference: 'localhost/mine' }, signal), 'mine');
    const later = apparmor.resolve({ type: 'localhost', reference: 'later' }, signal);
    await assert.rejects(later, { kind: 'precondition', message: /AppArmor profile later is not loaded/ });
    writeFileSync(profiles(), 'later (enforce)\n');
    assert.equal(await apparmor.resolve({ type: 'localhost', reference: 'later' }, signal), 'later');
    assert.equal(await apparmor.resolve({ type: 'unconfined' }, signal), undefined);
  });

  it('refuses a profile where the kernel has none of it, and needs none otherwise', async () => {
    const off = open('N\n');
    assert.equal(off.isEnabled, false);
    await assert.rejects(off.resolve({ type: 'localhost', reference: 'mine' }, signal), {
      kind: 'precondition',
      message: /^AppArmor profile mine is asked for, and this kernel has no AppArmor$/,
    });
    assert.equal(await off.resolve({ type: 'runtimeDefault' }, signal), undefined);
    assert.equal(await off.resolve(undefined, signal), undefined);
    await off.start(signal);
    assert.deepEqual(warnings, []);
  });

  it('loads the built-in profile when it is not there, once for many, and again when somebody took it away', async () => {
    let loads = 0;
    const apparmor = open('Y\n', 'berth-default', () => {
      loads += 1;
      loadBuiltIn();
    });
    const many = await Promise.all(Array.from({ length: 5 }, () => apparmor.resolve(undefined, signal)));
    assert.deepEqual([many, loads], [Array(5).fill('berth-default'), 1]);
    assert.equal(await apparmor.resolve({ type: 'runtimeDefault' }, signal), 'berth-default');
    assert.equal(loads, 1);
    writeFileSync(profiles(), '');
    assert.equal(await apparmor.resolve(undefined, signal), 'berth-default');
    assert.equal(loads, 2);
  });

  it('replaces at its start what an earlier version has loaded, and never what its owner has as a file', async () => {
    let loads = 0;
    const start = async (): Promise<number> => {
      loads = 0;
      await open('Y\n', 'berth-default', () => {
        loads += 1;
        loadBuiltIn();
      }).start(signal);
      return loads;
    };
    assert.equal(await start(), 1, 'there was none');
    assert.equal(await start(), 0, 'it is the same text');
    writeFileSync(noteFile(), 'of another version');
    assert.equal(await start(), 1);
    assert.equal(await start(), 0);
    rmSync(noteFile());
    assert.equal(await start(), 1, 'of a version that noted nothing');
    writeFileSync(noteFile(), 'of another version');
    writeFileSync(join(folder, 'owner'), '');
    assert.equal(await start(), 0);
    assert.deepEqual(warnings, []);
  });

  it('confines a container although it cannot note what it has loaded', async () => {
    mkdirSync(noteFile());
    const apparmor = open('Y\n', 'berth-default', loadBuiltIn);
    assert.equal(await apparmor.resolve({ type: 'runtimeDefault' }, signal), 'berth-default');
    assert.equal(warnings.length, 1);
  });

  it('goes without when nobody asked and it cannot be loaded; who asked is told', async () => {
    rmSync(join(folder, 'apparmor_parser'));
    const hasParser = parser !== undefined;
    const apparmor = open('Y\n', 'berth-default', () => {
      throw new Error('no');
    });
    await apparmor.start(signal);
    assert.equal(await apparmor.resolve(undefined, signal), undefined);
    assert.equal(warnings.length, 1, 'told once');
    await assert.rejects(apparmor.resolve({ type: 'runtimeDefault' }, signal), {
      kind: 'precondition',
      message: /^AppArmor profile berth-default cannot be loaded$/,
    });
    assert.ok(hasParser || /apparmor_parser is not installed/.test(JSON.stringify(warnings)));
  });

  it('follows the configuration: another profile must be there, or none is wanted', async () => {
    assert.equal(await open('Y\n', 'mine').resolve(undefined, signal), 'mine');
    await assert.rejects(open('Y\n', 'gone').resolve(undefined, signal), {
      kind: 'precondition',
      message: /gone of runtime\.apparmor_profile is not loaded/,
    });
    assert.equal(await open('Y\n', 'unconfined').resolve({ type: 'runtimeDefault' }, signal), undefined);
  });

  it('reads the names of profiles', () => {
    const text = 'docker-default (enforce)\nsnap.x//null-/usr/bin/y (complain)\nbroken\n';
    assert.deepEqual([...parseProfiles(text)], ['docker-default', 'snap.x//null-/usr/bin/y']);
  });

  it('has a built-in profile that keeps writers from what belongs to the kernel, and from nothing else', () => {
    const denied = [...BUILT_IN_PROFILE_TEXT.matchAll(/^ {2}deny (\/\S+) w/gm)].map(([, glob = '']) => patternOf(glob));
    const mayWrite = (path: string): boolean => !denied.some((pattern) => pattern.test(path));
    for (const path of [
      '/proc/sysrq-trigger',
      '/proc/dynamic_debug/control',
      '/proc/pressure/memory',
      '/proc/scsi/scsi',
      '/proc/sysvipc/shm',
      '/proc/fs/nfsd/threads',
      '/proc/sys/vm/swappiness',
      '/proc/sys/kernel/core_pattern',
      '/proc/sys/fs/binfmt_misc/register',
      '/sys/kernel/mm/ksm/run',
      '/sys/fs/bpf/x',
      '/sys/firmware/efi/x',
    ])
      assert.ok(!mayWrite(path), path);
    for (const path of [
      '/proc/1/oom_score_adj',
      '/proc/4194304/task/4194304/comm',
      '/proc/sys/net/ipv4/ip_forward',
      '/proc/sys/kernel/shmmax',
      '/proc/sys/kernel/sem',
      '/proc/sys/fs/mqueue/msg_max',
      '/sys/fs/cgroup/x/cgroup.procs',
      '/processes/x',
      '/tmp/proc/bus/x',
    ])
      assert.ok(mayWrite(path), path);
  });

  it('says what its built-in profile has rules for where the parser knows that', () => {
    assert.equal(builtInProfile('/no/such/file'), BUILT_IN_PROFILE_TEXT);
    assert.equal(builtInProfile('/proc/self'), `abi <abi/3.0>,\n${BUILT_IN_PROFILE_TEXT}`);
  });

  it('has a built-in profile that the parser understands', {
    skip: parser === undefined ? 'apparmor_parser is not installed' : false,
  }, () => {
    const args = ['--skip-kernel-load', '--skip-cache', '--stdout'];
    const compiled = execFileSync(parser ?? '', args, {
      input: builtInProfile(),
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    assert.ok(compiled.length > 1000);
  });
});

/** What a glob of a profile matches (apparmor.d(5), "Globbing"). */
function patternOf(glob: string): RegExp {
  const parts: Readonly<Record<string, string>> = { '**': '.*', '*': '[^/]*', '{': '(?:', '}': ')', ',': '|' };
  return new RegExp(`^${glob.replaceAll(/\*\*|[*{},]/g, (part) => parts[part] ?? '')}$`);
}
