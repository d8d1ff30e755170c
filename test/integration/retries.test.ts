/** Clients that lose patience and ask again: with a network plugin and an OCI runtime that take their time. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { type ServiceError, status } from '@grpc/grpc-js';

import {
  type ContainerEventResponse,
  CreateContainerRequest,
  GetEventsRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  PodSandboxConfig,
  PodSandboxState,
  PodSandboxStatusRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const IMPATIENT_MS = 1_500;
const TERMINATION = 'io.kubernetes.container.terminationMessagePath';

suite('retries', { timeout: 900_000 }, () => {
  let folder: string;
  let lab: PodLab;
  let calls: string;
  /** While it is not there, networks and containers are not made. */
  let gate: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-retries-'));
    calls = join(folder, 'calls');
    gate = join(folder, 'gate');
    writeFileSync(gate, '');
    const wrapper = join(folder, 'slow-runc');
    const waits = `until [ -e ${gate} ]; do sleep 0.01; done`;
    writeFileSync(
      wrapper,
      `#!/bin/sh\ncase " $* " in *" create "*) ${waits};; esac\nexec ${findProgram('runc')} "$@"\n`,
      { mode: 0o755 },
    );
    const handler = `[runtime]\ndefault_runtime = "slow"\n[runtime.handlers.slow]\npath = "${wrapper}"`;
    lab = await PodLab.start({ config: `${handler}\n[metrics]\nlisten = "127.0.0.1:0"` });
    const result = '{"cniVersion":"1.0.0","ips":[{"address":"10.250.0.7/24"}]}';
    const plugin = [
      '#!/bin/sh',
      'cat > /dev/null',
      `[ "$CNI_COMMAND" = VERSION ] || echo "$CNI_COMMAND" >> ${calls}`,
      `[ "$CNI_COMMAND" != DEL ] || [ ! -e ${folder}/broken ] || exit 1`,
      `[ "$CNI_COMMAND" != ADD ] || { ${waits}; echo '${result}'; }`,
    ];
    writeFileSync(join(lab.berthd.plugins, 'slow'), `${plugin.join('\n')}\n`, { mode: 0o755 });
    const noticed = lab.berthd.logged('"slow"', 1);
    lab.berthd.useNetwork({ type: 'slow' });
    await noticed;
  });
  afterEach(async (t) => {
    rmSync(join(folder, 'broken'), { force: true });
    open();
    await lab.afterTest(t);
    rmSync(calls, { force: true });
  });
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true });
  });

  const open = (): void => writeFileSync(gate, '');
  const close = (): void => rmSync(gate);
  const verbs = (): string => (existsSync(calls) ? readFileSync(calls, 'utf8').trim().replaceAll('\n', ' ') : '');
  const runRequest = (config: PodSandboxConfig) => RunPodSandboxRequest.create({ config });
  const listed = async (): Promise<string[]> =>
    (await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items.map(({ id }) => id);
  const containers = async (): Promise<string[]> =>
    (await lab.berthd.call(runtime.listContainers, ListContainersRequest.create())).containers.map(({ id }) => id);
  const withAttempt = (config: PodSandboxConfig, attempt: number): PodSandboxConfig =>
    PodSandboxConfig.create({ ...config, metadata: { ...config.metadata, attempt } });
  /** A client that gives up while the network is being made. */
  const giveUp = async (config: PodSandboxConfig): Promise<ServiceError> =>
    await lab.berthd.fails(runtime.runPodSandbox, runRequest(config), IMPATIENT_MS);
  /** A pod that is made for a client that has left; gives its id, which no list has. */
  const parked = async (config: PodSandboxConfig): Promise<string> => {
    close();
    await giveUp(config);
    return await parkedAfter(open, 'sandbox');
  };
  const parkedAfter = async (act: () => void, kind: string): Promise<string> => {
    const noticed = lab.berthd.logged(`${kind} is made, and its client has left`, 1);
    act();
    await noticed;
    const ids = [
      ...readFileSync(lab.berthd.logFile, 'utf8').matchAll(
        new RegExp(`"${kind}":"([0-9a-f]{64})".*${kind} is made, and its client`, 'g'),
      ),
    ];
    return ids.at(-1)?.[1] ?? assert.fail('no id in the log');
  };
  const stalls = async (): Promise<Record<string, number>> => {
    const found = (await lab.berthd.metrics()).matchAll(
      /^berth_stalled_total\{pipeline="\w+",step="([^"]+)"\} (\d+)$/gm,
    );
    return Object.fromEntries([...found].map(([, step = '', count]) => [step, Number(count)]));
  };

  test('the next attempt gets the host port of the one that nobody waits for', async () => {
    const config = lab.podConfig({ portMappings: [{ containerPort: 80, hostPort: 28_320 }] });
    await parked(config);
    const pod = await lab.runPod(withAttempt(config, 1));
    assert.deepEqual(await listed(), [pod]);
  });

  test('a pod that takes longer than its client waits: told why, and there for the retry', async () => {
    const before = (await stalls())['attach network'] ?? 0;
    const config = lab.podConfig();
    close();
    const told = await giveUp(config);
    assert.equal(told.code, status.DEADLINE_EXCEEDED);
    assert.match(
      told.details,
      /^sandbox k8s_pod-\S+ is not ready after \d\.\d s, still at "attach network"; ask again/,
    );
    assert.equal((await stalls())['attach network'], before + 1);
    assert.deepEqual(await listed(), []);
    assert.match((await giveUp(config)).details, /still at "attach network"/, 'a retry waits as long as its client');
    const retry = lab.runPod(config);
    open();
    const pod = await retry;
    assert.deepEqual(await listed(), [pod]);
    assert.equal(await lab.ipOf(pod), '10.250.0.7');
    assert.equal(verbs(), 'ADD');
    assert.equal(await lab.runPod(config), pod, 'an answer that was lost is given again');
  });

  test('a pod that is made for nobody is invisible and untouchable, until the same request comes', async () => {
    const events = lab.berthd.open(runtime.getContainerEvents, GetEventsRequest.create());
    const seen: string[] = [];
    events.on('error', () => {});
    events.on('data', ({ containerId }: ContainerEventResponse) => void seen.push(containerId));
    await once(events, 'metadata');
    const config = lab.podConfig();
    const podSandboxId = await parked(config);
    assert.deepEqual(await listed(), []);
    const request = PodSandboxStatusRequest.create({ podSandboxId });
    assert.equal((await lab.berthd.fails(runtime.podSandboxStatus, request)).code, status.NOT_FOUND);
    assert.equal((await lab.refused(podSandboxId, {})).code, status.NOT_FOUND);
    for (const method of [runtime.stopPodSandbox, runtime.removePodSandbox]) {
      const refused = await lab.berthd.fails(method, { podSandboxId });
      assert.equal(refused.code, status.FAILED_PRECONDITION);
      assert.match(refused.details, /is still being made/);
    }
    assert.deepEqual(seen, []);
    assert.deepEqual(await Promise.all([lab.runPod(config), lab.runPod(config)]), [podSandboxId, podSandboxId]);
    assert.deepEqual([await listed(), verbs()], [[podSandboxId], 'ADD']);
    await eventually('its events', () => seen.length === 2 || undefined);
    events.cancel();
    assert.equal(await lab.output(podSandboxId, { command: ['echo', 'it works'] }), 'it works');
  });

  test('another attempt has the one cleaned up that nobody waits for, made or not', async () => {
    const config = lab.podConfig();
    await parked(config);
    close();
    await giveUp(withAttempt(config, 1));
    const third = lab.runPod(withAttempt(config, 2));
    await eventually('both are undone', () => lab.berthd.traces().sandboxes?.length === 1 || undefined);
    open();
    const pod = await third;
    assert.deepEqual(await listed(), [pod]);
    assert.equal(verbs().match(/ADD/g)?.length, 3);
    await lab.removePod(pod);
    lab.berthd.assertNoTraces();
  });

  test('the same pod with another configuration takes the place of what nobody waits for', async () => {
    const config = lab.podConfig();
    const first = await parked(config);
    const pod = await lab.runPod(PodSandboxConfig.create({ ...config, hostname: 'other' }));
    assert.notEqual(pod, first);
    assert.deepEqual([await listed(), verbs()], [[pod], 'ADD DEL ADD']);
  });

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    test(`${signal} takes what nobody has claimed along; the retry makes it anew`, async () => {
      const config = lab.podConfig();
      const first = await parked(config);
      await lab.berthd.end(signal);
      await lab.berthd.start();
      assert.deepEqual([await listed(), verbs()], [[], 'ADD DEL']);
      lab.berthd.assertNoTraces();
      assert.notEqual(await lab.runPod(config), first);
    });
  }

  test('what cannot be rolled back is not ready; the same request cleans it up and makes it anew', async () => {
    const config = lab.podConfig();
    await parked(config);
    writeFileSync(join(folder, 'broken'), '');
    // Another attempt wants it away, and it will not go.
    const pod = await lab.runPod(withAttempt(config, 1));
    const stuck = await eventually('it is listed', async () => (await listed()).find((id) => id !== pod), 30_000);
    assert.equal((await lab.podStatus(stuck)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
    rmSync(join(folder, 'broken'));
    const again = await lab.runPod(config);
    assert.deepEqual((await listed()).toSorted(), [again, pod].toSorted());
    assert.notEqual(again, stuck);
  });

  test('a pod waits for the network to be ready as long as its client does', async () => {
    rmSync(join(lab.berthd.networks, '10-test.conflist'));
    await lab.berthd.logged('there is no CNI network for pods', 1);
    const config = lab.podConfig();
    const told = await giveUp(config);
    assert.equal(told.code, status.UNAVAILABLE);
    assert.match(told.details, /^no network for the pod: no valid CNI configuration in \S+net\.d/);
    assert.equal((await stalls())['wait for network'], 1);
    lab.berthd.assertNoTraces();
    const waiting = lab.runPod(config);
    lab.berthd.useNetwork({ type: 'slow' });
    const pod = await waiting;
    assert.deepEqual(await listed(), [pod]);
  });

  /** As the kubelet asks: each time with a new file for the container's last words. */
  const createRequest = (podSandboxId: string, attempt: number, name = 'web'): CreateContainerRequest => {
    const hostPath = mkdtempSync(join(folder, 'last-words-'));
    return lab.containerRequest(podSandboxId, {
      metadata: { name, attempt },
      annotations: { [TERMINATION]: '/last-words' },
      mounts: [{ containerPath: '/last-words', hostPath }],
    });
  };
  const create = async (request: CreateContainerRequest): Promise<string> =>
    (await lab.berthd.call(runtime.createContainer, request)).containerId;
  const giveUpContainer = async (request: CreateContainerRequest): Promise<ServiceError> =>
    await lab.berthd.fails(runtime.createContainer, request, IMPATIENT_MS);

  test('a container that takes longer than its client waits: told why, and there for the retry', async () => {
    const pod = await lab.runPod();
    close();
    const told = await giveUpContainer(createRequest(pod, 0));
    assert.equal(told.code, status.DEADLINE_EXCEEDED);
    assert.match(told.details, /^container k8s_web_\S+ is not ready after \S+ s, still at "create under monitor"/);
    assert.deepEqual(await containers(), []);
    const both = Promise.all([create(createRequest(pod, 0)), create(createRequest(pod, 0))]);
    open();
    const [id, same] = await both;
    assert.equal(same, id);
    assert.deepEqual(await containers(), [id]);
    assert.equal(await create(createRequest(pod, 0)), id, 'an answer that was lost is given again');
    const config = { ...createRequest(pod, 0).config, command: ['other'] };
    const other = await lab.berthd.fails(
      runtime.createContainer,
      CreateContainerRequest.create({ podSandboxId: pod, config }),
    );
    assert.equal(other.code, status.ALREADY_EXISTS);
    await lab.berthd.call(runtime.startContainer, { containerId: id });
    assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
    assert.equal((await giveUpContainer(createRequest(pod, 0))).code, status.ALREADY_EXISTS, 'it runs already');
  });

  test('a container that is made for nobody: for the same request, or cleaned up for another attempt', async () => {
    const pod = await lab.runPod();
    const park = async (attempt: number, name: string): Promise<string> => {
      close();
      await giveUpContainer(createRequest(pod, attempt, name));
      return await parkedAfter(open, 'container');
    };
    const web = await park(0, 'web');
    const containerId = await park(0, 'db');
    assert.deepEqual(await containers(), []);
    assert.equal((await lab.berthd.fails(runtime.startContainer, { containerId })).code, status.NOT_FOUND);
    const refused = await lab.berthd.fails(runtime.removeContainer, { containerId });
    assert.equal(refused.code, status.FAILED_PRECONDITION);
    assert.equal(await create(createRequest(pod, 0, 'db')), containerId);
    const second = await create(createRequest(pod, 1));
    await eventually('the first is gone', () => !existsSync(join(lab.berthd.state, 'containers', web)) || undefined);
    assert.deepEqual((await containers()).toSorted(), [containerId, second].toSorted());
    await lab.berthd.call(runtime.startContainer, { containerId });
    assert.equal(await lab.exec(containerId, 'echo', 'runs'), 'runs');
  });

  test('a pod that is stopped takes along what is made in it for nobody, and what is being made', async () => {
    const pod = await lab.runPod();
    close();
    await giveUpContainer(createRequest(pod, 0, 'made'));
    await parkedAfter(open, 'container');
    close();
    const coming = lab.berthd.fails(runtime.createContainer, createRequest(pod, 0, 'coming'));
    await lab.berthd.logged('"step":"write spec"', 1);
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    assert.match((await coming).details, /is stopped/);
    open();
    assert.deepEqual(await containers(), []);
    assert.equal(lab.berthd.traces().bundles, undefined);
    assert.equal((await giveUpContainer(createRequest(pod, 0, 'made'))).code, status.FAILED_PRECONDITION);
  });

  test('SIGKILL takes containers along that nobody has claimed', async () => {
    const pod = await lab.runPod();
    close();
    await giveUpContainer(createRequest(pod, 0));
    const first = await parkedAfter(open, 'container');
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.deepEqual(await containers(), []);
    assert.ok(!existsSync(join(lab.berthd.state, 'containers', first)));
    assert.notEqual(await create(createRequest(pod, 0)), first);
  });
});
