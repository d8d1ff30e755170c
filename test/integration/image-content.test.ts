/** What people do with images beside running them: save, look into, check. By the command line. Needs root. */

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { readMounts, unmount } from '../../src/sys/mount.ts';
import { PodLab } from '../harness/pod-lab.ts';

const BERTH = fileURLToPath(new URL('../../bin/berth', import.meta.url));

suite('images beside pods', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start({ files: { 'etc/motd': 'hello from the image' } });
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(() => lab.close());

  interface Run {
    readonly code: number;
    readonly out: string;
    readonly err: string;
  }
  const berth = async (...args: string[]): Promise<Run> => {
    const { promise, resolve } = Promise.withResolvers<Run>();
    const words = ['--socket', lab.berthd.endpoint, ...args];
    execFile(BERTH, words, { timeout: 60_000, maxBuffer: 64 * 1024 * 1024 }, (failure, out, err) =>
      resolve({ code: failure ? Number(failure.code) : 0, out, err }),
    );
    return await promise;
  };
  const well = async (...args: string[]): Promise<string> => {
    const { code, out, err } = await berth(...args);
    assert.equal(code, 0, err);
    return out;
  };
  const layerFolders = (): string[] => readdirSync(join(lab.berthd.root, 'image/layers')).sort();
  const mountedAt = (folder: string): boolean => readMounts().some(({ mountPoint }) => mountPoint === folder);

  test('what is saved is loaded again as the same image, and runs', async () => {
    const file = join(lab.berthd.root, 'saved.tar');
    const before = layerFolders();
    assert.match(await well('image', 'save', lab.image, '-o', file), /saved\.tar +[\d.]+ MiB/);
    assert.deepEqual(
      readdirSync(lab.berthd.root).filter((name) => name.startsWith('saved')),
      ['saved.tar'],
    );
    const names = execFileSync('tar', ['-tf', file], { encoding: 'utf8' }).split('\n');
    assert.deepEqual(names.slice(0, 3), ['oci-layout', 'index.json', 'manifest.json']);
    const saved = JSON.parse(execFileSync('tar', ['-xOf', file, 'manifest.json'], { encoding: 'utf8' })) as object[];
    assert.deepEqual(Object.keys(saved[0] ?? {}), ['Config', 'RepoTags', 'Layers']);
    await well('image', 'rm', lab.image);
    assert.deepEqual([layerFolders(), readdirSync(join(lab.berthd.root, 'image/configs'))], [[], []]);
    await well('image', 'load', file);
    assert.deepEqual(layerFolders(), before);
    const [image] = JSON.parse(await well('--json', 'images')) as { id: string; repoTags: string[] }[];
    assert.deepEqual([image?.id, image?.repoTags], [lab.imageId, [lab.image]]);
    const pod = await lab.runPod();
    assert.equal(await lab.output(pod, { command: ['cat', '/etc/motd'] }), 'hello from the image');
    // To a pipe, byte by byte the same: nothing in it tells the time.
    const piped = join(lab.berthd.root, 'piped.tar');
    execFileSync('sh', [
      '-c',
      '"$0" --socket "$1" image save "$2" > "$3"',
      BERTH,
      lab.berthd.endpoint,
      lab.image,
      piped,
    ]);
    assert.ok(readFileSync(piped).equals(readFileSync(file)));
  });

  test('what is saved into a pipe is loaded from one, and nothing is kept of it', async () => {
    const folder = mkdtempSync(join(lab.berthd.root, 'tmp-'));
    const pipe =
      '"$0" --socket "$1" image save "$2" | TMPDIR=$3 "$0" --socket "$1" image load --name localhost/piped -';
    const loaded = execFileSync('sh', ['-c', pipe, BERTH, lab.berthd.endpoint, lab.image, folder], {
      encoding: 'utf8',
    });
    assert.match(loaded, /localhost\/piped:test/);
    assert.deepEqual(readdirSync(folder), []);
    const garbage = 'echo nothing | TMPDIR=$2 "$0" --socket "$1" image load - 2>&1';
    assert.throws(
      () => execFileSync('sh', ['-c', garbage, BERTH, lab.berthd.endpoint, folder], { encoding: 'utf8' }),
      (err: unknown) => err instanceof Error && 'stdout' in err && /unexpected|tar|archive/.test(String(err.stdout)),
    );
    assert.deepEqual(readdirSync(folder), []);
  });

  test('an archive that cannot be made leaves no file, and says why', async () => {
    const file = join(lab.berthd.root, 'none.tar');
    const unknown = await berth('image', 'save', 'example.com/nobody:has', '-o', file);
    assert.deepEqual([unknown.code, unknown.out], [1, '']);
    assert.match(unknown.err, /image example\.com\/nobody:has is not here/);
    const nowhere = await berth('image', 'save', lab.image, '-o', '/no/such/folder/x.tar');
    assert.match(nowhere.err, /folder \/no\/such\/folder does not exist/);
    assert.ok(!readdirSync(lab.berthd.root).some((name) => name.startsWith('none')));
  });

  test('a pod runs with an image that podman or docker would read: the layout names it twice', async () => {
    const file = join(lab.berthd.root, 'named.tar');
    await well('image', 'save', lab.imageId, '-o', file);
    const index = JSON.parse(execFileSync('tar', ['-xOf', file, 'index.json'], { encoding: 'utf8' })) as {
      manifests: { annotations: Record<string, string> }[];
    };
    assert.deepEqual(index.manifests[0]?.annotations, {
      'io.containerd.image.name': lab.image,
      'org.opencontainers.image.ref.name': 'test',
    });
    const renamed = await well('image', 'load', '--name', 'localhost/other', file);
    assert.match(renamed, /localhost\/other:test/);
  });

  test('its history is shown', async () => {
    const [heading, ...steps] = (await well('image', 'history', lab.image)).trim().split('\n');
    assert.match(heading ?? '', /^LAYER +SIZE +AGE +MADE BY$/);
    assert.ok(steps.length >= 1);
    assert.match(steps.at(-1) ?? '', /^[0-9a-f]{12} +[\d.]+ [KM]iB/);
    assert.match((await berth('image', 'history', 'nobody')).err, /image nobody is not here/);
  });

  test('what comes on standard input and is no archive is called so', () => {
    const load = (input: string): string => {
      const args = ['--socket', lab.berthd.endpoint, 'image', 'load', '-'];
      return spawnSync(BERTH, args, { input, encoding: 'utf8', timeout: 60_000 }).stderr;
    };
    assert.match(load('x'), /^berth: standard input\b/);
    assert.match(load(''), /^berth: standard input is empty/);
  });

  test('a pull whose berthd is stopped says so, and that it may be repeated', async () => {
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    // A registry that never answers.
    const silent = createServer(() => resolve()).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const pulled = berth('image', 'pull', `127.0.0.1:${port}/app`);
    await asked;
    await lab.berthd.end('SIGTERM');
    const { code, err } = await pulled;
    await lab.berthd.start();
    silent.close();
    assert.equal(code, 1);
    assert.match(
      err,
      /^berth: berthd was stopped .*\n {2}the pull, repeated when berthd runs again, goes on where it was$/m,
    );
  });

  test('an inspection tells for what and how it was built', async () => {
    interface Facts {
      readonly os: string;
      readonly architecture: string;
      readonly created: string;
      readonly layers: readonly string[];
      readonly history: readonly { readonly diffId: string; readonly sizeBytes: number }[];
    }
    const answer: { readonly info: { readonly info: Facts } } = JSON.parse(await well('image', 'inspect', lab.image));
    const { info } = answer.info;
    assert.equal(info.os, 'linux');
    assert.match(info.architecture, /^[a-z0-9]+$/);
    assert.equal(typeof info.created, 'string');
    const first = info.history.at(-1);
    assert.equal(first?.diffId, info.layers[0]);
    assert.ok((first?.sizeBytes ?? 0) > 0);
  });

  test('it is mounted, stays over a restart, and cannot be removed meanwhile', async () => {
    const folder = (await well('image', 'mount', lab.image)).trim();
    const own = mkdtempSync(join(lab.berthd.root, 'mnt-'));
    assert.equal(await well('image', 'mount', lab.image, own), `${own}\n`);
    for (const place of [folder, own]) {
      assert.equal(readFileSync(join(place, 'etc/motd'), 'utf8'), 'hello from the image');
      assert.throws(() => writeFileSync(join(place, 'new'), ''), /EROFS/);
      const options = readMounts().find(({ mountPoint }) => mountPoint === place)?.options ?? [];
      for (const option of ['ro', 'nosuid', 'nodev']) assert.ok(options.includes(option), option);
    }
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.equal((await well('image', 'mount')).trim().split('\n').length, 3);
    const refused = await berth('image', 'rm', lab.image);
    assert.match(refused.err, new RegExp(`is mounted at ${folder}; berth image unmount ${folder}`));
    assert.equal(refused.code, 1);
    assert.equal(await well('image', 'unmount', own), `${own}\n`);
    assert.ok(existsSync(own) && !mountedAt(own));
    assert.equal(await well('image', 'unmount', lab.image), `${folder}\n`);
    assert.ok(!existsSync(folder));
    const again = await berth('image', 'unmount', lab.image);
    assert.deepEqual([again.code, again.out], [1, '']);
    assert.match(again.err, /nothing is mounted of image/);
  });

  test('a mount that somebody took away is forgotten', async () => {
    const folder = (await well('image', 'mount', lab.image)).trim();
    unmount(folder);
    assert.match(await well('image', 'prune', '--dry-run'), /^mount +[0-9a-f]{12} .*not mounted there any more/m);
    await well('image', 'prune');
    assert.deepEqual(readdirSync(join(lab.berthd.state, 'image-mounts')), []);
    const other = (await well('image', 'mount', lab.image)).trim();
    unmount(other);
    await lab.berthd.end('SIGTERM');
    await lab.berthd.start();
    assert.deepEqual(readdirSync(join(lab.berthd.state, 'image-mounts')), []);
  });

  test('is mounted at no folder where something is', async () => {
    const full = join(lab.berthd.root, 'full');
    mkdirSync(join(full, 'x'), { recursive: true });
    const taken = join(lab.berthd.root, 'taken');
    mkdirSync(taken);
    await well('image', 'mount', lab.image, taken);
    const again = await berth('image', 'mount', lab.image, taken);
    assert.match(again.err, /taken has image \S+ mounted already/);
    await well('image', 'unmount', taken);
    for (const [place, words] of [
      [full, /full is not empty/],
      [join(full, 'none'), /does not exist/],
    ] as const) {
      const refused = await berth('image', 'mount', lab.image, place);
      assert.deepEqual([refused.code, words.test(refused.err)], [1, true], refused.err);
    }
    assert.deepEqual(readdirSync(join(lab.berthd.state, 'image-mounts')), []);
  });

  test('damage is found, said, and mended by the next load', async () => {
    const file = join(lab.berthd.root, 'good.tar');
    await well('image', 'save', lab.imageId, '-o', file);
    assert.match(await well('image', 'check'), /example\.com\/busybox:test +whole/);
    const [layer = ''] = layerFolders();
    const motd = join(lab.berthd.root, 'image/layers', layer, 'diff/etc/motd');
    writeFileSync(motd, 'HELLO from the image');
    const pod = await lab.runPod();
    const running = await lab.start(pod, { command: ['sleep', '1000'] });
    const unsaved = await berth('image', 'save', lab.image, '-o', join(lab.berthd.root, 'bad.tar'));
    assert.match(unsaved.err, /layer sha256:[0-9a-f]+ is not what it was when it was pulled/);
    const found = await berth('image', 'check', lab.image);
    assert.equal(found.code, 1);
    assert.match(found.out, /etc\/motd" .*has changed/);
    assert.match(found.err, /pulling them again mends them/);
    assert.match((await berth('image', 'inspect', lab.image)).err, /is not here/);
    // Nothing is known better after a restart, and what runs on it goes on.
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.equal((await berth('image', 'check')).code, 1);
    assert.equal(await lab.exec(running, 'cat', '/etc/motd'), 'HELLO from the image');
    const doctor = await berth('doctor');
    assert.match(
      doctor.out,
      /error: image example\.com\/busybox:test: is damaged and not used until it is pulled again/,
    );
    await well('image', 'load', file);
    assert.doesNotMatch((await berth('doctor')).out, /is damaged/);
    assert.match(await well('image', 'check'), /example\.com\/busybox:test +whole/);
    assert.equal(await lab.exec(running, 'cat', '/etc/motd'), 'HELLO from the image');
    assert.equal(await lab.output(pod, { command: ['cat', '/etc/motd'] }), 'hello from the image');
    await lab.removePod(pod);
    assert.match(await well('image', 'prune', '--dry-run'), /^folder +\.kept-/m);
    await well('image', 'prune');
    assert.deepEqual(layerFolders(), [layer]);
    rmSync(file);
  });
});
