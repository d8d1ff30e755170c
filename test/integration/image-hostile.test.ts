/** Layers that are made to harm: each is refused with words that say why, and nothing of it is left. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';

import fc from 'fast-check';

import { systemClock } from '../../src/base/clock.ts';
import { describe as chain, isKind } from '../../src/base/errors.ts';
import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { BlobIngest } from '../../src/image/blob-download.ts';
import type { Digest } from '../../src/image/digest.ts';
import { fetchLayers } from '../../src/image/fetch-layers.ts';
import { readInnerImplied } from '../../src/image/implied-folders.ts';
import { parseImageConfig } from '../../src/image/manifest.ts';
import { newPullProgress } from '../../src/image/pull-progress.ts';
import { PullSource } from '../../src/image/pull-source.ts';
import { RegistryClient } from '../../src/image/registry-client.ts';
import type { ResolvedImage } from '../../src/image/resolve-image.ts';
import { openIsal } from '../../src/sys/isal.ts';
import { LayerLab, sha256 } from '../fakes/layer-lab.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { FakeRegistry, fakeBlob, fakeImage } from '../fakes/registry.ts';
import { type FakeMember, memberBytes, tarBytes } from '../fakes/tar-bytes.ts';

const never = new AbortController().signal;
const skip = process.getuid?.() === 0 ? false : 'needs root';
const MiB = 1024 * 1024;
const limits = { members: 500, dataBytes: 8 * MiB };

describe('hostile layers', { skip }, () => {
  let lab: LayerLab;
  beforeEach(async () => {
    lab = await LayerLab.open({ limits });
  });
  afterEach(() => lab.close());

  const zeros = (bytes: number): Buffer => Buffer.alloc(bytes);
  const bomb = tarBytes([{ name: 'zeros', data: zeros(64 * MiB) }]);
  const many = tarBytes(Array.from({ length: 501 }, (_, index) => ({ name: `empty-${index}` })));
  const endless = Buffer.concat([tarBytes([{ name: 'x' }]), zeros(64 * MiB)]);
  const huge = (size: number): Buffer => memberBytes({ name: 'pax', type: 'x', size, data: 'x' });
  const sparsePax = { 'GNU.sparse.size': '8192', 'GNU.sparse.map': '0,1' };
  const whole = tarBytes([{ name: 'a', data: 'x'.repeat(2000) }]);

  const cases: [string, Buffer, 'none' | 'gzip' | 'zstd', RegExp][] = [
    ['a gzip bomb', gzipSync(bomb), 'gzip', /member "zeros": .*more than 8388608 bytes \(image\.max_layer_gib\)/],
    ['a zstd bomb', zstdCompressSync(bomb), 'zstd', /more than 8388608 bytes \(image\.max_layer_gib\)/],
    ['a bomb behind the end', gzipSync(endless), 'gzip', /is longer than \d+ bytes \(image\.max_layer_gib\)/],
    ['a bomb behind the end, by zstd', zstdCompressSync(endless), 'zstd', /is longer than \d+ bytes/],
    [
      'folders without end that no member names',
      tarBytes(Array.from({ length: 30 }, (_, index) => ({ name: `${index}/${'f/'.repeat(20)}x` }))),
      'none',
      /makes more than 500 files and folders \(image\.max_layer_files\)/,
    ],
    ['empty files without end', gzipSync(many), 'gzip', /more than 500 members \(image\.max_layer_files\)/],
    ['a pax header of 1 GiB', huge(1024 * MiB), 'none', /extended header \(x\) is longer than/],
    ['a name of 5,000 bytes', tarBytes([{ name: 'x', pax: { path: 'a/'.repeat(2500) } }]), 'none', /longer than 4096/],
    ['an archive that is cut off', gzipSync(whole.subarray(0, 1500)), 'gzip', /is cut off/],
    ['gzip that is cut off', gzipSync(whole).subarray(0, -4), 'gzip', /inflate/],
    ['garbage after gzip', Buffer.concat([gzipSync(whole), Buffer.from('garbage')]), 'gzip', /inflate/],
    ['a checksum that is wrong', Buffer.concat([gzipSync(whole).subarray(0, -8), zeros(8)]), 'gzip', /inflate/],
    [
      'a link planted by an earlier member, and a hard link through it',
      tarBytes([
        { name: 'l', type: '2', link: '/etc' },
        { name: 'h', type: '1', link: 'l/passwd' },
      ]),
      'none',
      /which is not in the layer/,
    ],
    ['a whiteout that climbs', tarBytes([{ name: '../.wh.etc' }]), 'none', /has "\.\."/],
    ['a whiteout of the folder above', tarBytes([{ name: 'a/.wh...' }]), 'none', /whiteout.* of "\.\." hides nothing/],
    ['a name that climbs', tarBytes([{ name: 'a/../../b', data: 'x' }]), 'none', /has "\.\."/],
    ['an absolute name', tarBytes([{ name: '/etc/passwd', data: 'x' }]), 'none', /is an absolute path/],
    [
      'a hard link that climbs',
      tarBytes([{ name: 'h', type: '1', link: '../../etc/passwd' }]),
      'none',
      /member "h": .*has "\.\."/,
    ],
    [
      'a hard link to a file of the host',
      tarBytes([{ name: 'h', type: '1', link: '/etc/passwd' }]),
      'none',
      /link: to "\/etc\/passwd", which is not in the layer/,
    ],
    [
      'a sparse file that is larger than numbers are',
      tarBytes([{ name: 's', data: 'x', pax: { ...sparsePax, 'GNU.sparse.size': '9'.repeat(16) } }]),
      'none',
      /pax GNU\.sparse\.size: is not a whole number/,
    ],
    [
      'a sparse file with more data than there is',
      tarBytes([{ name: 's', data: 'x', pax: { ...sparsePax, 'GNU.sparse.map': '0,4096' } }]),
      'none',
      /sparse map: maps 4096 bytes of 1/,
    ],
    [
      'a sparse map that turns back',
      tarBytes([{ name: 's', data: 'xy', pax: { ...sparsePax, 'GNU.sparse.map': '5,1,0,1' } }]),
      'none',
      /sparse map: has runs that overlap/,
    ],
    ['a member that is larger than its archive', huge(2 ** 32), 'none', /is longer than|cut off/],
  ];
  for (const [what, blob, compression, words] of cases) {
    it(`refuse ${what}`, async () => {
      const path = lab.blob(blob);
      const before = openFdCount();
      // What it unpacks to does not matter: it is refused before that is known.
      const failed = lab.layers.unpack({ path, compression }, sha256(blob), never);
      await assert.rejects(failed, (err: unknown) => {
        assert.match(chain(err), words);
        return isKind(err, 'invalid');
      });
      assert.deepEqual(readdirSync(join(lab.root, 'image/layers')), []);
      assert.deepEqual([...lab.rows.rows], []);
      assert.deepEqual(readdirSync(lab.base).sort(), ['blob-1', 'root']);
      // The thread that did it stays, with the descriptors of its own.
      assert.ok(openFdCount() <= before + 6, `${openFdCount()} descriptors, ${before} before`);
    });
  }

  it('cannot imply folders whose names fill the memory of whoever looks at them', async () => {
    // Each member implies fourteen, of 27 kB of names together, in 4 kB of archive.
    const part = 'x'.repeat(250);
    const members = Array.from({ length: 1300 }, (_, index) => ({
      name: 'x',
      pax: { path: `${index}/${`${part}/`.repeat(15)}x` },
    }));
    const large = await LayerLab.open();
    try {
      const tar = tarBytes(members);
      const failed = large.layers.unpack({ path: large.blob(tar), compression: 'none' }, sha256(tar), never);
      await assert.rejects(failed, (err: unknown) => {
        assert.match(chain(err), /folders that no member describes have names of more than 33554432 bytes together/);
        return isKind(err, 'invalid');
      });
      assert.deepEqual(readdirSync(join(large.root, 'image/layers')), []);
      const legit = await large.unpack(tarBytes(members.slice(0, 200)));
      assert.equal(readInnerImplied(large.layers.impliedPath(legit)).length, 200 * 16);
    } finally {
      await large.close();
    }
  });

  it('leave no blob in flight once their content is refused', async () => {
    await using registry = await FakeRegistry.start();
    const client = new RegistryClient({ monotonicMs: () => performance.now() });
    const folder = join(lab.root, 'image/ingest');
    const ingest = new BlobIngest(folder);
    await ingest.start();
    const deps = { client, ingest, layers: lab.layers, maxParallelDownloads: 1 };
    const silent = { log: silentLogger, meter: silentMeter, clock: systemClock };
    const endpoint = { registry: registry.host, host: registry.host, repository: 'app', insecure: true, mirror: false };
    const source = new PullSource([{ endpoint, credential: undefined }], silentLogger);
    const wrong: (typeof cases)[number] = ['a wrong diff id', gzipSync(whole), 'gzip', /not to its diff id/];
    try {
      for (const [what, bytes, compression, words] of [...cases, wrong]) {
        const blob = fakeBlob(bytes, 'application/vnd.oci.image.layer.v1.tar');
        const image = { ...fakeImage(['x']), layers: [blob] };
        registry.add('app', image);
        const digest = blob.digest as Digest;
        const resolved: ResolvedImage = {
          digest: image.manifest.digest as Digest,
          manifestDigest: image.manifest.digest as Digest,
          configBytes: image.config.bytes,
          document: { ...parseImageConfig(image.config.bytes, 'the test'), diffIds: [digest] },
          layers: [{ digest, size: blob.size, mediaType: blob.mediaType, compression }],
          artifactType: undefined,
          annotations: {},
        };
        const progress = newPullProgress(what, 0, () => performance.now());
        const fetching = fetchLayers({ ...deps, ...silent }, source, resolved, progress, never);
        await assert.rejects(fetching, (err: unknown) => words.test(chain(err)), what);
        assert.deepEqual(readdirSync(folder), [], what);
      }
    } finally {
      await ingest.close();
      await client.close();
    }
  });

  it('take names that are no text, of all lengths that the kernel takes', async () => {
    const deep = `${'d'.repeat(255)}/`.repeat(15);
    const members: FakeMember[] = [
      { name: Buffer.from([0xff, 0xfe, 0x80]), data: 'x' },
      { name: 'x', pax: { path: Buffer.from(`${deep}${'f'.repeat(255)}`) } },
    ];
    const diffId = await lab.unpack(tarBytes(members));
    const diff = lab.layers.path(diffId);
    const names = readdirSync(Buffer.from(diff), { encoding: 'buffer' }).map((name) => name.toString('latin1'));
    assert.deepEqual(names.sort(), ['d'.repeat(255), '\xff\xfe\x80']);
    // Its path is too long for others than the store.
    await lab.layers.remove(diffId);
  });

  it('keep the holes of a sparse bomb: it takes no room', async () => {
    const size = 2 ** 40;
    const pax = { 'GNU.sparse.size': `${size}`, 'GNU.sparse.map': `${size - 1},1` };
    const diffId = await lab.unpack(tarBytes([{ name: 'bomb', data: 'x', pax }]));
    const facts = lstatSync(join(lab.layers.path(diffId), 'bomb'));
    assert.equal(facts.size, size);
    assert.ok(facts.blocks * 512 <= 64 * 1024, `${facts.blocks} blocks`);
    assert.ok((lab.layers.all()[0]?.sizeBytes ?? 0) <= 64 * 1024);
  });

  it('cannot use the links of a layer below: what leads out there leads nowhere here', async () => {
    const outside = join(lab.base, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'secret'), 'of the host');
    const base = await lab.unpack(tarBytes([{ name: 'l', type: '2', link: outside }]));
    const top = await lab.unpack(tarBytes([{ name: 'l/planted', data: 'x' }, { name: 'l/.wh.secret' }]));
    await assert.rejects(lab.unpack(tarBytes([{ name: 'h', type: '1', link: 'l/secret' }])), (err: unknown) =>
      /which is not in the layer before it/.test(chain(err)),
    );
    assert.deepEqual(readdirSync(outside), ['secret']);
    assert.ok(lstatSync(join(lab.layers.path(top), 'l')).isDirectory());
    const { rootfs } = await lab.snapshots.mount('c', [base, top]);
    assert.ok(lstatSync(join(rootfs, 'l')).isDirectory());
    assert.deepEqual(
      ['planted', 'secret'].map((name) => existsSync(join(rootfs, 'l', name))),
      [true, false],
    );
    await lab.snapshots.unmount('c');
    await lab.snapshots.remove('c');
    assert.deepEqual(readdirSync(outside), ['secret']);
  });

  it('keep setuid, setgid and sticky as the header says, whatever the umask', async () => {
    const modes = [0o4755, 0o2711, 0o6777, 0o1777];
    const members = modes.flatMap((mode): FakeMember[] => [
      { name: `f${mode}`, mode, uid: 1000, gid: 1000, data: 'x' },
      { name: `d${mode}/`, mode, uid: 1000, gid: 1000 },
    ]);
    const diff = lab.layers.path(await lab.unpack(tarBytes(members)));
    for (const mode of modes)
      for (const kind of ['f', 'd']) assert.equal(lstatSync(join(diff, `${kind}${mode}`)).mode & 0o7777, mode);
  });

  it('have their device nodes made, left out or refused, as the configuration says', async () => {
    const tar = tarBytes([
      { name: 'dev/sda', type: '4', major: 8, minor: 0 },
      { name: 'dev/null', type: '3', major: 1, minor: 3 },
      { name: 'dev/pipe', type: '6' },
      { name: 'file', data: 'x' },
    ]);
    const made = lab.layers.path(await lab.unpack(tar));
    assert.deepEqual(readdirSync(join(made, 'dev')).sort(), ['null', 'pipe', 'sda']);
    const skipping = await LayerLab.open({ devices: 'skip' });
    try {
      const diff = skipping.layers.path(await skipping.unpack(tar));
      assert.deepEqual([readdirSync(diff).sort(), readdirSync(join(diff, 'dev'))], [['dev', 'file'], ['pipe']]);
    } finally {
      await skipping.close();
    }
    const refusing = await LayerLab.open({ devices: 'refuse' });
    try {
      await assert.rejects(refusing.unpack(tar), (err: unknown) => {
        assert.match(chain(err), /member "dev\/sda": .*device node \(block 8:0\), which image\.layer_devices does not/);
        return isKind(err, 'invalid');
      });
      assert.deepEqual(readdirSync(join(refusing.root, 'image/layers')), []);
    } finally {
      await refusing.close();
    }
  });

  it('hash to a diff id of sha512 as well', async () => {
    const tar = tarBytes([{ name: 'a', data: 'x' }]);
    const diffId = `sha512:${createHash('sha512').update(tar).digest('hex')}`;
    await lab.layers.unpack({ path: lab.blob(tar), compression: 'none' }, diffId, never);
    assert.equal(lab.layers.path(diffId), join(lab.root, 'image/layers', diffId.slice('sha512:'.length), 'diff'));
    const { rootfs } = await lab.snapshots.mount('c', [diffId]);
    assert.deepEqual(readdirSync(rootfs), ['a']);
    await lab.snapshots.unmount('c');
    await lab.snapshots.remove('c');
    const other = `sha512:${createHash('sha512').update('other').digest('hex')}`;
    await assert.rejects(
      lab.layers.unpack({ path: lab.blob(tar), compression: 'none' }, other, never),
      (err: unknown) => /unpacks to sha512:[0-9a-f]{128}, not to its diff id sha512:/.test(chain(err)),
    );
  });

  it('are inflated by the library where it is installed', { skip: openIsal() ? false : 'no libisal2' }, async () => {
    const tar = tarBytes([{ name: 'a', data: 'x'.repeat(100_000) }]);
    const path = lab.blob(gzipSync(tar));
    await lab.layers.unpack({ path, compression: 'gzip', gunzip: 'isal' }, sha256(tar), never);
  });

  it('come out as GNU tar has them, whatever order files, folders and links come in', async () => {
    const names = ['a', 'b', 'a/x', 'b/y', 'a/x/z'];
    const member = fc.record({
      name: fc.constantFrom(...names),
      kind: fc.constantFrom('file', 'dir', 'link'),
      mode: fc.constantFrom(0o644, 0o755, 0o4755, 0o600),
      data: fc.string({ maxLength: 20 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(member, { minLength: 1, maxLength: 8 }), async (drawn) => {
        // Where GNU tar would leave its folder, or refuse, there is nothing to compare with.
        const members = withoutConflicts(drawn).map(
          ({ name, kind, mode, data }): FakeMember =>
            kind === 'dir'
              ? { name: `${name}/`, mode }
              : { name, mode, ...(kind === 'link' ? { type: '2', link: withinReach(data) } : { data }) },
        );
        const tar = tarBytes(members);
        const expected = mkdtempSync(join(lab.base, 'gnu-'));
        writeFileSync(join(lab.base, 'gnu.tar'), tar);
        execFileSync('tar', ['-C', expected, '--numeric-owner', '-xpf', join(lab.base, 'gnu.tar')]);
        const diffId = await lab.unpack(tar);
        assert.deepEqual(portrait(lab.layers.path(diffId)), portrait(expected));
        await lab.layers.remove(diffId);
        rmSync(expected, { recursive: true });
      }),
      { numRuns: 40 },
    );
  });

  it('hide what an independent model says that whiteouts hide', async () => {
    const path = fc.constantFrom('a', 'a/b', 'a/b/c', 'd', 'd/e');
    const lower = fc.uniqueArray(path, { minLength: 1 });
    const upper = fc.uniqueArray(fc.tuple(fc.constantFrom('hide', 'opaque', 'add'), path), { maxLength: 4 });
    let run = 0;
    await fc.assert(
      fc.asyncProperty(lower, upper, async (below, above) => {
        run += 1;
        const fileIn = (folder: string): string => `${folder}/file`;
        const base = await lab.unpack(tarBytes(below.map((folder) => ({ name: fileIn(folder), data: `${run}` }))));
        const top = await lab.unpack(
          tarBytes([
            { name: `marker-${run}` },
            ...above.map(([what, folder]): FakeMember => {
              if (what === 'add') return { name: `${folder}/new` };
              const parent = folder.includes('/') ? `${folder.slice(0, folder.lastIndexOf('/'))}/` : '';
              return {
                name: what === 'hide' ? `${parent}.wh.${folder.slice(parent.length)}` : `${folder}/.wh..wh..opq`,
              };
            }),
          ]),
        );
        // The model: first all that is hidden goes from the lower files, then what the layer brings is added.
        const hidden = above.filter(([what]) => what !== 'add').map(([, folder]) => `${folder}/`);
        const visible = below.map(fileIn).filter((file) => !hidden.some((folder) => file.startsWith(folder)));
        const added = above.filter(([what]) => what === 'add').map(([, folder]) => `${folder}/new`);
        const { rootfs } = await lab.snapshots.mount(`c${run}`, [base, top]);
        const files = execFileSync('find', [rootfs, '-type', 'f', '-printf', '%P\n']).toString().split('\n');
        const expected = new Set([...visible, ...added, `marker-${run}`]);
        assert.deepEqual(files.filter(Boolean).sort(), [...expected].sort());
        await lab.snapshots.unmount(`c${run}`);
        await lab.snapshots.remove(`c${run}`);
        await Promise.all([base, top].map((layer) => lab.layers.remove(layer)));
      }),
      { numRuns: 40 },
    );
  });
});

type Drawn = { readonly name: string; readonly kind: string; readonly mode: number; readonly data: string };

/** GNU tar makes links that may lead out of its folder last of all, over what came later under their name. */
function withinReach(target: string): string {
  return `x${target.replaceAll(/[/.]/g, '_')}`;
}

/** Leaves out members below what is no folder, and folders that would replace something else or be replaced. */
function withoutConflicts(members: readonly Drawn[]): Drawn[] {
  const kinds = new Map<string, string>();
  return members.filter(({ name, kind }) => {
    const above = name.split('/').map((_, index, parts) => parts.slice(0, index).join('/'));
    if (above.some((folder) => folder !== '' && (kinds.get(folder) ?? 'dir') !== 'dir')) return false;
    const before = kinds.get(name);
    const isBeneath = [...kinds.keys()].some((other) => other.startsWith(`${name}/`));
    if (before !== undefined && (before === 'dir') !== (kind === 'dir')) return false;
    if (isBeneath && kind !== 'dir') return false;
    for (const folder of above) if (folder !== '') kinds.set(folder, 'dir');
    kinds.set(name, kind);
    return true;
  });
}

function portrait(folder: string): string[] {
  assert.ok(existsSync(folder));
  const lines = execFileSync('find', [folder, '-mindepth', '1', '-printf', '%P|%y|%m|%U:%G|%l\n']).toString();
  const files = execFileSync('find', [folder, '-type', 'f', '-printf', '%P|%s|%T@\n']).toString();
  return `${lines}${files}`.split('\n').sort();
}
