/** A node that is in a cluster: its network, its events and its RuntimeClasses, with a stand-in for the API server. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { AdminService, DoctorRequest } from '../../proto/gen/berth/admin.ts';
import {
  ImageServiceService as images,
  PullImageRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { FakeApiServer } from '../fakes/api-server.ts';
import { hasOpenssl } from '../fakes/certificates.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const NODES = '/api/v1/nodes';
const CLASSES = '/apis/node.k8s.io/v1/runtimeclasses';
const node = (...podCIDRs: string[]) => ({ metadata: { name: 'n1' }, spec: { podCIDRs } });

const skip = hasOpenssl() ? false : 'openssl is not installed';

suite('a node of a cluster', { timeout: 900_000, skip }, () => {
  const server = new FakeApiServer();
  let root: string;
  let kubeconfig: string;
  let lab: PodLab;

  before(async () => {
    await server.listen();
    root = mkdtempSync('/var/lib/berth-test-');
    kubeconfig = join(root, 'kubelet.conf');
    const template = join(root, 'template.json');
    mkdirSync(join(root, 'berth.toml.d'));
    const policy = join(root, 'policy.json');
    const transports = { docker: { 'refused.example': [{ type: 'reject' }] } };
    writeFileSync(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }], transports }));
    writeFileSync(
      join(root, 'berth.toml.d/cluster.toml'),
      `cni.conf_template = "${template}"\nimage.signature_policy = "${policy}"\n`,
    );
    lab = await PodLab.start({ root, config: `[cluster]\nkubeconfig = "${kubeconfig}"\nnode_name = "n1"` });
    const { bridge } = lab.berthd.network;
    // Before the file of the test's own network, in lexical order.
    rmSync(join(lab.berthd.networks, '10-test.conflist'));
    const plugin = {
      type: 'bridge',
      bridge,
      isGateway: true,
      ipam: {
        type: 'host-local',
        dataDir: join(root, 'addresses'),
        ranges: '{{POD_RANGES}}',
        routes: '{{POD_ROUTES}}',
      },
    };
    writeFileSync(template, JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins: [plugin] }));
  });
  afterEach((t) => lab.afterTest(t));
  after(async () => {
    // First: one that listens would keep this process when something is found that was left.
    await server[Symbol.asyncDispose]();
    await lab?.close();
  });

  const conflist = (): string => join(lab.berthd.networks, '10-berth-pods.conflist');
  const doctor = async () => (await lab.berthd.call(AdminService.doctor, DoctorRequest.create())).findings;

  test('the kubeconfig is used when it appears, and the addresses of the node make the network', async () => {
    await eventually(
      'it is told that there is none',
      async () =>
        (await doctor()).some(({ subject, message }) => subject === 'cluster' && /kubelet\.conf/.test(message)) ||
        undefined,
    );
    server.put(NODES, node(lab.berthd.network.subnet));
    writeFileSync(kubeconfig, server.kubeconfig());
    await eventually('the network is written', () => existsSync(conflist()) || undefined);
    const pod = await lab.runPod();
    const { status } = await lab.podStatus(pod);
    assert.ok(lab.berthd.network.owns(status?.network?.ip ?? ''), status?.network?.ip);
    assert.deepEqual(
      (await doctor()).filter(({ subject }) => subject === 'cluster'),
      [],
    );
  });

  test('RuntimeClasses whose handler is not here are named by the doctor', async () => {
    server.put(CLASSES, { metadata: { name: 'plain' }, handler: 'runc' });
    server.put(CLASSES, { metadata: { name: 'small-vm' }, handler: 'kata-clh' });
    const found = await eventually('it is told', async () => {
      const about = (await doctor()).filter(({ subject }) => subject.startsWith('RuntimeClass'));
      return about.length > 0 ? about : undefined;
    });
    assert.deepEqual(
      found.map(({ subject, severity }) => [subject, severity]),
      [['RuntimeClass small-vm', 'warning']],
    );
    assert.match(found[0]?.message ?? '', /"kata-clh" is not configured here/);
    server.remove(CLASSES, 'small-vm');
    await eventually(
      'it is gone',
      async () => (await doctor()).every(({ subject }) => !subject.startsWith('RuntimeClass')) || undefined,
    );
  });

  test('a container of which nobody knows how it ended becomes an event of its pod', async () => {
    const pod = await lab.runPod(
      lab.podConfig({ metadata: { name: 'web', namespace: 'blue', uid: 'u1', attempt: 0 } }),
    );
    const id = await lab.start(pod);
    const { pid, monitorPid } = await lab.info(id);
    process.kill(monitorPid, 'SIGKILL');
    process.kill(pid, 'SIGKILL');
    await server.until(() => server.created.some(({ reason }) => reason === 'ContainerLost'));
    const event = server.created.find(({ reason }) => reason === 'ContainerLost');
    assert.equal(event?.['path'], '/apis/events.k8s.io/v1/namespaces/blue/events');
    assert.deepEqual(event?.['regarding'], {
      apiVersion: 'v1',
      kind: 'Pod',
      namespace: 'blue',
      name: 'web',
      uid: 'u1',
    });
    assert.match(String(event?.['note']), new RegExp(`container ${id} .* nobody knows how`));
    assert.equal(event?.['reportingInstance'], 'n1');
  });

  test('an image that the policy refuses becomes an event of the node', async () => {
    const refused = 'refused.example/team/app:1';
    await lab.berthd.fails(images.pullImage, PullImageRequest.create({ image: { image: refused } }));
    await server.until(() => server.created.some(({ reason }) => reason === 'ImageRefused'));
    const event = server.created.find(({ reason }) => reason === 'ImageRefused');
    assert.deepEqual(event?.['regarding'], { apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'n1' });
    assert.ok(String(event?.['note']).includes(refused), String(event?.['note']));
  });

  test('pods go on without the cluster, and it is found again', async () => {
    server.failWith = 500;
    server.cut();
    const pod = await lab.runPod();
    await eventually(
      'it is told',
      async () => (await doctor()).some(({ subject }) => subject === 'cluster') || undefined,
    );
    await lab.removePod(pod);
    server.failWith = undefined;
    await eventually(
      'it is well again',
      async () => (await doctor()).every(({ subject }) => subject !== 'cluster') || undefined,
    );
  });

  test('new credentials in the kubeconfig are taken when the old ones are refused', async () => {
    server.token = 'renewed';
    writeFileSync(kubeconfig, server.kubeconfig());
    server.cut();
    server.put(CLASSES, { metadata: { name: 'later' }, handler: 'nowhere' });
    await eventually(
      'the new class is known',
      async () => (await doctor()).some(({ subject }) => subject === 'RuntimeClass later') || undefined,
    );
  });

  test('the kubelet names the addresses, and bad ones change nothing', async () => {
    const before = readFileSync(conflist(), 'utf8');
    const config = (podCidr: string) => ({ runtimeConfig: { networkConfig: { podCidr } } });
    const refused = await lab.berthd.fails(runtime.updateRuntimeConfig, config('10.0.0.0/99'));
    assert.match(refused.details, /pod_cidr/);
    assert.equal(readFileSync(conflist(), 'utf8'), before);
    await lab.berthd.call(runtime.updateRuntimeConfig, config('10.212.250.0/24'));
    assert.match(readFileSync(conflist(), 'utf8'), /10\.212\.250\.0/);
    await lab.berthd.call(runtime.updateRuntimeConfig, config(lab.berthd.network.subnet));
  });
});

suite('a node without a cluster', { timeout: 900_000 }, () => {
  test('the kubelet names the addresses, and pods get them', async (t) => {
    const root = mkdtempSync('/var/lib/berth-test-');
    const template = join(root, 'template.json');
    mkdirSync(join(root, 'berth.toml.d'));
    writeFileSync(join(root, 'berth.toml.d/network.toml'), `cni.conf_template = "${template}"\n`);
    const lab = await PodLab.start({ root });
    t.after(() => lab.close());
    const { bridge, subnet } = lab.berthd.network;
    const ipam = { type: 'host-local', dataDir: join(root, 'addresses'), ranges: '{{POD_RANGES}}' };
    const plugins = [{ type: 'bridge', bridge, isGateway: true, ipam }];
    writeFileSync(template, JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins }));
    rmSync(join(lab.berthd.networks, '10-test.conflist'));
    const taken = lab.berthd.logged('"network":"pods"', 1);
    await lab.berthd.call(runtime.updateRuntimeConfig, { runtimeConfig: { networkConfig: { podCidr: subnet } } });
    await taken;
    const pod = await lab.runPod();
    const { status } = await lab.podStatus(pod);
    assert.ok(lab.berthd.network.owns(status?.network?.ip ?? ''), status?.network?.ip);
    await lab.removePod(pod);
  });
});
