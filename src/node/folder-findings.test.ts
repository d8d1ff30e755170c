import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { loadConfig } from '../config/load-config.ts';
import { folderFindings } from './folder-findings.ts';

const isRoot = process.geteuid?.() === 0;

suite('folders and files', { skip: isRoot ? false : 'only root owns what root must own' }, () => {
  let top: string;
  before(() => {
    top = mkdtempSync(join(tmpdir(), 'berth-folders-'));
  });
  after(() => rmSync(top, { recursive: true }));

  /** What is found but for the space on the disks, with a configuration of these lines. */
  const found = (...lines: string[]): string[] => {
    const file = join(top, 'berth.toml');
    writeFileSync(file, [`root = "${top}/root"`, `state = "${top}/state"`, ...lines].join('\n'));
    return folderFindings(loadConfig({ file }))
      .filter(({ message }) => !/ fit on its disk| free on its disk|is on a disk/.test(message))
      .filter(({ subject }) => subject.includes(top))
      .map(({ severity, subject, remedy }) => `${severity}: ${subject.replaceAll(top, '')}: ${remedy}`);
  };

  test('those that are not there yet are fine', () => assert.deepEqual(found(), []));

  test('those that others may change are errors', () => {
    mkdirSync(join(top, 'root'));
    chmodSync(join(top, 'root'), 0o777);
    mkdirSync(join(top, 'net.d'));
    chownSync(join(top, 'net.d'), 1000, 1000);
    assert.deepEqual(found('[cni]', `conf_dir = "${top}/net.d"`), [
      `error: root /root: chmod go-w ${top}/root`,
      `error: cni.conf_dir /net.d: chown root: ${top}/net.d`,
    ]);
    chmodSync(join(top, 'root'), 0o711);
  });

  test('a root that is a file is an error', () => {
    writeFileSync(join(top, 'state'), '', { mode: 0o600 });
    assert.match(found().join(), /^error: state \/state: mv /);
    rmSync(join(top, 'state'));
  });

  test('passwords that others may read are told', () => {
    writeFileSync(join(top, 'auth.json'), '{}', { mode: 0o644 });
    const lines = ['[image]', `auth_file = "${top}/auth.json"`];
    assert.deepEqual(found(...lines), [`warning: image.auth_file /auth.json: chmod 600 ${top}/auth.json`]);
    chmodSync(join(top, 'auth.json'), 0o600);
    assert.deepEqual(found(...lines), []);
  });
});
