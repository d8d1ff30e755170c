import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import type { MountSpec } from './container-spec.ts';
import { findHostMount, type HostMount, resolveMounts } from './mounts.ts';

const plain: MountSpec = {
  containerPath: '/data',
  hostPath: '/',
  readonly: false,
  recursiveReadOnly: false,
  selinuxRelabel: false,
  propagation: 'private',
  uidMappings: [],
  gidMappings: [],
  image: undefined,
  imageSubPath: '',
  options: [],
};

describe('resolveMounts', () => {
  let folder = '';
  before(() => {
    folder = realpathSync(mkdtempSync(join(tmpdir(), 'berth-mounts-')));
    mkdirSync(join(folder, 'real/below'), { recursive: true });
    symlinkSync('real', join(folder, 'link'));
    symlinkSync('nowhere', join(folder, 'dangling'));
    symlinkSync('loop', join(folder, 'loop'));
  });
  after(() => rmSync(folder, { recursive: true }));

  const resolve = async (mount: Partial<MountSpec>, hostMounts: readonly HostMount[] = [], recursiveReadOnly = true) =>
    await resolveMounts([{ ...plain, hostPath: folder, ...mount }], {
      recursiveReadOnly,
      handler: 'runc',
      readHostMounts: () => hostMounts,
    });

  it('binds with all that is mounted below, privately', async () => {
    const { mounts, rootfsPropagation } = await resolve({});
    assert.deepEqual(mounts, [
      { destination: '/data', type: 'bind', source: folder, options: ['rbind', 'rprivate', 'rw'] },
    ]);
    assert.equal(rootfsPropagation, undefined);
  });

  it('binds an image where it is mounted, read-only, with less and never more', async () => {
    const image = { reference: 'x', userSpecified: '', runtimeHandler: '', annotations: {} };
    const abilities = { recursiveReadOnly: false, handler: 'runc', readHostMounts: () => [] };
    const mount = { ...plain, hostPath: '', image, readonly: true, recursiveReadOnly: true, options: ['noexec'] };
    const { mounts } = await resolveMounts([plain, mount], {
      ...abilities,
      imageSources: new Map([[1, '/v/image-1/a']]),
    });
    assert.deepEqual(mounts[1], {
      destination: '/data',
      type: 'bind',
      source: '/v/image-1/a',
      options: ['rbind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec'],
    });
    await assert.rejects(resolveMounts([mount], abilities), { kind: 'internal' });
    const exec = { ...mount, options: ['exec'] };
    await assert.rejects(resolveMounts([exec], { ...abilities, imageSources: new Map([[0, '/v']]) }), {
      kind: 'invalid',
    });
  });

  it('follows symbolic links of the host', async () => {
    const { mounts } = await resolve({ hostPath: join(folder, 'link/below') });
    assert.equal(mounts[0]?.source, join(folder, 'real/below'));
  });

  it('makes a folder where the host has nothing', async () => {
    const missing = join(folder, 'new/below');
    assert.equal((await resolve({ hostPath: missing })).mounts[0]?.source, missing);
    assert.equal(statSync(missing).mode & 0o7777, 0o755);
  });

  it('cleans the container path', async () => {
    const { mounts } = await resolve({ containerPath: '/a//b/../c/' });
    assert.equal(mounts[0]?.destination, '/a/c');
  });

  const options = async (mount: Partial<MountSpec>) => (await resolve(mount)).mounts[0]?.options.slice(2);
  it('makes mounts read-only, alone or with all below', async () => {
    assert.deepEqual(await options({ readonly: true }), ['ro']);
    assert.deepEqual(await options({ readonly: true, recursiveReadOnly: true }), ['rro']);
    assert.deepEqual(await options({ options: ['noexec'] }), ['rw', 'noexec']);
  });

  const bad: { title: string; mount: Partial<MountSpec>; message: RegExp }[] = [
    {
      title: 'a relative container path',
      mount: { containerPath: 'data' },
      message: /^config\.mounts\[0\]\.container_path: /,
    },
    { title: 'an empty container path', mount: { containerPath: '' }, message: /container_path: / },
    { title: 'the root', mount: { containerPath: '/x/..' }, message: /container_path: is the root/ },
    { title: 'a NUL byte', mount: { containerPath: '/x\0' }, message: /container_path: .*NUL/ },
    { title: 'a relative host path', mount: { hostPath: 'tmp' }, message: /host_path: .*absolute/ },
    {
      title: 'a source below a file',
      mount: { hostPath: '/etc/passwd/sub' },
      message: /^config\.mounts\[0\]\.host_path: \/etc\/passwd\/sub does not exist: a part of it is no folder$/,
    },
    {
      title: 'a source where no folder can be made',
      mount: { hostPath: '/proc/none/sub' },
      message: /host_path: \/proc\/none\/sub does not exist, and no folder can be made there$/,
    },
    { title: 'an unknown option', mount: { options: ['suid'] }, message: /mount_options: "suid"/ },
    { title: 'rro without ro', mount: { recursiveReadOnly: true }, message: /recursive_read_only: needs readonly/ },
    {
      title: 'rro with propagation',
      mount: { readonly: true, recursiveReadOnly: true, propagation: 'hostToContainer' },
      message: /recursive_read_only: needs private/,
    },
  ];
  for (const { title, mount, message } of bad) {
    it(`refuses ${title}`, async () => {
      await assert.rejects(resolve(mount), { kind: 'invalid', message });
    });
  }

  it('refuses links that lead nowhere', async () => {
    await assert.rejects(resolve({ hostPath: join(folder, 'dangling') }), {
      kind: 'invalid',
      message: /symbolic link to nowhere/,
    });
    await assert.rejects(resolve({ hostPath: join(folder, 'loop') }), { kind: 'invalid', message: /loop/ });
  });

  it('refuses rro where the handler cannot do it', async () => {
    await assert.rejects(resolve({ readonly: true, recursiveReadOnly: true }, [], false), { message: /handler runc/ });
  });

  it('lets mounts propagate as far as the source does', async () => {
    const host = (...propagation: string[]) => [{ mountPoint: '/', propagation }];
    const kind = async (propagation: MountSpec['propagation'], hostMounts: readonly HostMount[]) =>
      (await resolve({ propagation }, hostMounts)).rootfsPropagation;
    assert.equal(await kind('bidirectional', host('shared:1')), 'rshared');
    assert.equal(await kind('hostToContainer', host('shared:1')), 'rslave');
    assert.equal(await kind('hostToContainer', host('master:1')), 'rslave');
    await assert.rejects(kind('bidirectional', host('master:1')), {
      kind: 'invalid',
      message: /propagation: .* not shared$/,
    });
    await assert.rejects(kind('hostToContainer', host()), {
      kind: 'invalid',
      message: /the mount \/ .* shared or slave$/,
    });
  });
});

describe('findHostMount', () => {
  const mounts = ['/', '/data', '/data/disk', '/data'].map((mountPoint, i) => ({
    mountPoint,
    propagation: [`shared:${i}`],
  }));
  const cases = [
    { path: '/etc', expected: 'shared:0' },
    { path: '/database', expected: 'shared:0' },
    { path: '/data/x', expected: 'shared:3' },
    { path: '/data/disk', expected: 'shared:2' },
  ];
  for (const { path, expected } of cases) {
    it(`finds the mount of ${path}`, () => assert.deepEqual(findHostMount(path, mounts)?.propagation, [expected]));
  }
});
