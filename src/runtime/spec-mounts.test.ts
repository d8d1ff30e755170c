import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { OciMount } from './oci-spec.ts';
import { buildMounts } from './spec-mounts.ts';

const files = { resolvConf: '/s/resolv.conf', hostname: '/s/hostname', hosts: '/s/hosts', shm: '/s/shm' };
const plain = { privileged: false, readonlyRootfs: false };

function bind(destination: string): OciMount {
  return { destination, type: 'bind', source: '/own', options: ['rbind'] };
}

function mountsWith(...own: readonly string[]): readonly OciMount[] {
  return buildMounts(files, { mounts: own.map(bind), rootfsPropagation: undefined }, plain);
}

function destinations(mounts: readonly OciMount[]): string[] {
  return mounts.map(({ destination }) => destination);
}

describe('buildMounts', () => {
  it('puts parents before children, defaults and own mounts alike', () => {
    const order = destinations(mountsWith('/etc', '/data/deep/er', '/data', '/data/deep'));
    const before = (parent: string, child: string) =>
      assert.ok(order.indexOf(parent) < order.indexOf(child), `${parent} ${child}`);
    before('/etc', '/etc/resolv.conf');
    before('/data', '/data/deep');
    before('/data/deep', '/data/deep/er');
    before('/sys', '/sys/fs/cgroup');
  });

  it("lets a client's mount take a default one's place", () => {
    const hosts = mountsWith('/etc/hosts').filter(({ destination }) => destination === '/etc/hosts');
    assert.deepEqual(hosts, [bind('/etc/hosts')]);
  });

  for (const tree of ['/dev', '/sys']) {
    it(`drops all defaults below ${tree} for a client's own ${tree}`, () => {
      const order = destinations(mountsWith(tree));
      assert.deepEqual(
        order.filter((path) => path === tree || path.startsWith(`${tree}/`)),
        [tree],
      );
    });
  }

  it('keeps the order of mounts on the same place: the later one lies on top', () => {
    const twice = [
      { ...bind('/x'), source: '/first' },
      { ...bind('/x'), source: '/second' },
    ];
    const mounts = buildMounts(files, { mounts: twice, rootfsPropagation: undefined }, plain);
    assert.deepEqual(
      mounts.filter(({ destination }) => destination === '/x').map(({ source }) => source),
      ['/first', '/second'],
    );
  });

  it("makes the sandbox's files as writable as the root file system", () => {
    const access = (readonlyRootfs: boolean) =>
      buildMounts(files, { mounts: [], rootfsPropagation: undefined }, { privileged: false, readonlyRootfs })
        .find(({ destination }) => destination === '/etc/resolv.conf')
        ?.options.at(-1);
    assert.deepEqual([access(true), access(false)], ['ro', 'rw']);
  });
});
