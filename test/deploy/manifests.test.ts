import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { loadAll } from 'js-yaml';

import { loadConfig } from '../../src/config/load-config.ts';
import { instructionsOf } from './dockerfile.ts';
import { type FieldTable, problemsOf, readFieldTable } from './field-table.ts';

const deploy = fileURLToPath(new URL('../../deploy', import.meta.url));
const { listen } = loadConfig({ defaultFile: '/nowhere/berth.toml' });
const kubelet = readFieldTable('kubelet');
const kubeadm = readFieldTable('kubeadm');
const kind = readFieldTable('kind');

/** What an object of an API is checked by. */
const APIS: Readonly<Record<string, FieldTable>> = {
  'kubelet.config.k8s.io/v1beta1': kubelet,
  'kubeadm.k8s.io/v1beta4': kubeadm,
  'kind.x-k8s.io/v1alpha4': kind,
};

interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly nodeRegistration?: { readonly criSocket?: string };
  readonly containerRuntimeEndpoint?: string;
  readonly kubeadmConfigPatches?: readonly string[];
}

/** The objects of a YAML file. */
function objectsOf(text: string): Manifest[] {
  return loadAll(text).map((document) => document as Manifest);
}

function read(path: string): string {
  return readFileSync(join(deploy, path), 'utf8');
}

const files = [...globSync(join(deploy, '{kubelet,kubeadm,kind}/*.yaml')), join(deploy, 'kubelet/10-berth.conf')];

describe('manifests', () => {
  for (const file of files.map((path) => relative(deploy, path)).sort()) {
    test(`${file}: has only fields that its API knows, in every version of it`, () => {
      const objects = objectsOf(read(file));
      assert.ok(objects.length > 0);
      for (const object of objects) {
        const table = APIS[object.apiVersion] ?? assert.fail(`unknown API ${object.apiVersion}`);
        assert.ok(table.types[object.kind], `${object.apiVersion} has no ${object.kind}`);
        assert.deepEqual(problemsOf(table, object.kind, object, table.versions), []);
      }
    });
  }

  test('are files of their kind, and the check sees what is wrong', () => {
    assert.ok(files.length >= 5);
    assert.deepEqual(kubelet.versions, ['1.30', '1.31', '1.32', '1.33', '1.34', '1.35', '1.36', '1.37']);
    const wrong = {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      cgroupDriwer: 'systemd',
      maxPods: '110',
      failCgroupV1: false,
      imageMinimumGCAge: '2 minutes',
      authentication: { anonymous: { enabled: 'no' } },
      clusterDNS: '10.96.0.10',
    };
    assert.deepEqual(problemsOf(kubelet, 'KubeletConfiguration', wrong, kubelet.versions), [
      'KubeletConfiguration.cgroupDriwer: unknown field',
      'KubeletConfiguration.maxPods: is no int32: "110"',
      'KubeletConfiguration.failCgroupV1: not known to 1.30',
      'KubeletConfiguration.imageMinimumGCAge: is no metav1.Duration: "2 minutes"',
      'KubeletConfiguration.authentication.anonymous.enabled: is no bool: "no"',
      'KubeletConfiguration.clusterDNS: is no list',
    ]);
  });

  test('name the socket on which berthd listens', () => {
    const sockets = files.flatMap((file) =>
      objectsOf(readFileSync(file, 'utf8'))
        .flatMap((object) => [object, ...(object.kubeadmConfigPatches ?? []).flatMap(objectsOf)])
        .flatMap(({ nodeRegistration, containerRuntimeEndpoint }) => [
          nodeRegistration?.criSocket,
          containerRuntimeEndpoint,
        ])
        .filter((socket) => socket !== undefined),
    );
    assert.equal(sockets.length, 6);
    assert.deepEqual([...new Set(sockets)], [listen]);
  });

  test("kind: the patches fit to kubeadm's objects, and each changes one", () => {
    const [cluster] = objectsOf(read('kind/cluster.yaml'));
    const patches = (cluster?.kubeadmConfigPatches ?? []).flatMap(objectsOf);
    assert.deepEqual(
      patches.map((patch) => patch.kind),
      ['InitConfiguration', 'JoinConfiguration'],
    );
    for (const patch of patches) assert.deepEqual(problemsOf(kubeadm, patch.kind, patch, kubeadm.versions), []);
  });
});

const { KUBELET_BIN = '', KUBEADM_BIN = '' } = process.env;

describe('by the real programs', () => {
  test('a kubelet takes its configuration and the drop-in', {
    skip: KUBELET_BIN === '' ? 'KUBELET_BIN names no kubelet' : false,
  }, (t) => {
    const own = mkdtempSync(join(tmpdir(), 'berth-kubelet-'));
    t.after(() => rmSync(own, { recursive: true, force: true }));
    // It ends by itself: nobody listens there, or the host has cgroup v1.
    const nobody = `unix://${own}/none.sock`;
    const said = (config: string, dropIn: string): string => {
      writeFileSync(join(own, 'config.yaml'), config.replace(listen, nobody));
      writeFileSync(join(own, '10-berth.conf'), dropIn.replace(listen, nobody));
      const args = ['--config', join(own, 'config.yaml'), '--config-dir', own, '--root-dir', join(own, 'root')];
      const { status, stderr } = spawnSync(KUBELET_BIN, args, { encoding: 'utf8', timeout: 60_000 });
      assert.equal(status, 1, stderr);
      return stderr;
    };
    const told = said(read('kubelet/config.yaml'), read('kubelet/10-berth.conf'));
    assert.doesNotMatch(told, /decoding|unknown field/);
    assert.doesNotMatch(
      told,
      /failed to validate kubelet configuration, error: (?!kubelet is configured to not run on a host using cgroup v1)/,
    );
    assert.match(said(read('kubelet/config.yaml').replace('seccompDefault', 'secDefault'), ''), /unknown field/);
  });

  for (const file of ['kubeadm/init.yaml', 'kubeadm/join.yaml']) {
    test(`kubeadm takes ${file}`, { skip: KUBEADM_BIN === '' ? 'KUBEADM_BIN names no kubeadm' : false }, () => {
      const args = ['config', 'validate', '--config', join(deploy, file)];
      const { status, stdout, stderr } = spawnSync(KUBEADM_BIN, args, { encoding: 'utf8', timeout: 60_000 });
      assert.equal(status, 0, stderr);
      assert.equal(stdout.trim(), 'ok');
      assert.doesNotMatch(stderr, /unknown field|error/);
    });
  }
});

describe('the node image for kind', () => {
  const instructions = instructionsOf(read('kind/Dockerfile'));

  test('every script in it is one, and what it copies is there', () => {
    const scripts = instructions.flatMap(([name, rest]) => (name === 'RUN' ? [rest] : []));
    assert.equal(scripts.length, 3);
    const own = ['kind/ctr'].map(read);
    for (const input of [...scripts, ...own]) {
      const { status, stderr } = spawnSync('sh', ['-n'], { input, encoding: 'utf8' });
      assert.equal(status, 0, stderr);
    }
    const copied = instructions.flatMap(([name, rest]) => (name === 'COPY' ? [rest.split(' ').at(-2) ?? ''] : []));
    assert.ok(copied.length >= 6);
    // Who builds the image puts the package there.
    for (const path of copied) if (path !== 'kind/berth.deb') assert.ok(read(path).length > 0, path);
    assert.deepEqual(
      globSync(join(deploy, 'kind/*'))
        .map((path) => relative(deploy, path))
        .sort(),
      ['kind/Dockerfile', 'kind/cluster.yaml', ...copied.filter((path) => /^kind\/(?!berth\.deb)/.test(path))].sort(),
    );
  });

  test('its ctr hands what kind load sends to berth, and refuses all else', (t) => {
    const own = mkdtempSync(join(tmpdir(), 'berth-ctr-'));
    t.after(() => rmSync(own, { recursive: true, force: true }));
    writeFileSync(join(own, 'berth'), '#!/bin/sh\necho "$1 $2: $(cat "$3")"\necho "$3" >&2\n', { mode: 0o755 });
    const ctr = (...args: string[]) =>
      spawnSync('sh', [join(deploy, 'kind/ctr'), ...args], {
        input: 'an archive',
        encoding: 'utf8',
        env: { PATH: `${own}:/usr/bin:/bin` },
      });
    // As pkg/cluster/nodeutils of kind has it.
    const flags = ['--all-platforms', '--digests', '--snapshotter=overlayfs'];
    const loaded = ctr('--namespace=k8s.io', 'images', 'import', ...flags, '-');
    assert.deepEqual([loaded.status, loaded.stdout], [0, 'image load: an archive\n']);
    assert.equal(existsSync(loaded.stderr.trim()), false, 'the archive is left');
    const other = ctr('--namespace=k8s.io', 'images', 'ls');
    assert.equal(other.status, 1);
    assert.match(other.stderr, /this node runs Berth: use crictl, or berth/);
  });

  test('its units and drop-ins have only sections and keys that systemd knows', () => {
    const known =
      /^(Description|Requires|Wants|After|ConditionPathExists|Type|ExecStart|ExecStartPre|Restart|RestartSec|TimeoutStartSec|WantedBy)=/;
    const units = ['kind/berth-images.service', 'kind/berthd.service.conf', 'kind/kubelet.service.conf'];
    for (const file of [...units, 'kubelet/20-berth.service.conf']) {
      const lines = read(file)
        .split('\n')
        .filter((line) => !/^(#|$)/.test(line));
      for (const line of lines)
        assert.ok(/^\[(Unit|Service|Install)\]$/.test(line) || known.test(line), `${file}: ${line}`);
      for (const [, script = ''] of read(file).matchAll(/sh -e?c '([^']*)'/g)) {
        assert.equal(spawnSync('sh', ['-n'], { input: script }).status, 0, script);
      }
    }
    const waited = /-e (\S+) \]/.exec(read('kind/kubelet.service.conf'))?.[1];
    assert.match(read('kind/berth-images.service'), new RegExp(`touch ${waited}'`));
    assert.match(read('kind/berth-images.service'), new RegExp(`^ConditionPathExists=!${waited}$`, 'm'));
  });
});
