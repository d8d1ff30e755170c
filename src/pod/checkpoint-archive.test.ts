import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import { OpenArchive, readPodCheckpoint } from './checkpoint-archive.ts';

suite('archives of checkpoints', () => {
  let folder: string;
  const archive = (files: Readonly<Record<string, string>>): OpenArchive =>
    new OpenArchive(
      'a.tar',
      Object.entries(files).map(([name, text], index) => {
        const path = join(folder, String(index));
        writeFileSync(path, text);
        return { name, path, linkTo: undefined, digest: '', sizeBytes: text.length };
      }),
    );

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-archive-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('reads what CRI-O writes', () => {
    const opened = archive({
      'config.dump': '{"id":"i","name":"n","rootfsImageName":"x:1","ociRuntime":"runc","restored":false}',
      'deleted.files': '["/etc/gone"]',
      'checkpoint/pages-1.img': 'p',
      'rootfs-diff.tar': '',
    });
    assert.equal(opened.config().rootfsImageName, 'x:1');
    assert.deepEqual(opened.hidden(), ['/etc/gone']);
    assert.deepEqual([...opened.images().keys()], ['pages-1.img']);
    assert.ok(opened.diff());
  });

  test('says what is wrong with others', () => {
    assert.throws(() => archive({}).config(), /a\.tar: has no config\.dump: it is not the checkpoint of a container/);
    assert.throws(() => archive({ 'config.dump': '{' }).config(), { kind: 'invalid' });
    assert.throws(() => archive({ 'config.dump': '{"id":1}' }).config(), /a\.tar: config\.dump: id: /);
    assert.throws(() => archive({ 'deleted.files': '{}' }).hidden(), { kind: 'invalid' });
    assert.throws(() => archive({}).images(), /has no checkpoint\/ with a dump in it/);
    assert.throws(() => archive({ 'checkpoint/../../x': '' }).images(), /lies deeper/);
  });

  test('the checkpoint of a pod names files beside it, and none elsewhere', () => {
    const write = (archiveName: string): void =>
      writeFileSync(
        join(folder, 'pod.json'),
        JSON.stringify({
          version: 1,
          pod: { name: 'p', namespace: 'n', uid: 'u' },
          checkpointedTime: '',
          containers: [{ name: 'a', archive: archiveName }],
        }),
      );
    write('a.tar');
    assert.deepEqual(readPodCheckpoint(folder).containers, [{ name: 'a', archive: 'a.tar' }]);
    for (const bad of ['../a.tar', '/etc/passwd', '..', '']) {
      write(bad);
      assert.throws(() => readPodCheckpoint(folder), { kind: 'invalid' });
    }
    rmSync(join(folder, 'pod.json'));
    assert.throws(() => readPodCheckpoint(folder), /pod\.json: is not there/);
    // Neither does a pipe hold it up, nor is a path through a file a bug.
    execFileSync('mkfifo', [join(folder, 'pod.json')]);
    assert.throws(() => readPodCheckpoint(folder), { kind: 'invalid', message: /pod\.json: is not a file/ });
    assert.throws(() => readPodCheckpoint(join(folder, 'pod.json')), { kind: 'invalid', message: /not a folder/ });
  });
});
