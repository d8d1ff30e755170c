/** Traces of a real berthd: they go on where the kubelet's began, with a span for each step and program. Needs root. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, test } from 'node:test';

import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';

import {
  CreateContainerRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { OtlpReceiver, type ReceivedSpan } from '../fakes/otlp-receiver.ts';
import type { Method } from '../harness/cri-connection.ts';
import { PodLab } from '../harness/pod-lab.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';

suite('traces of a berthd', { timeout: 900_000 }, () => {
  let receiver: OtlpReceiver;
  let lab: PodLab;
  let kubelet: Client;
  before(async () => {
    receiver = await OtlpReceiver.start();
    lab = await PodLab.start({
      config: `[metrics]\nlisten = "127.0.0.1:0"\n[tracing]\nendpoint = "${receiver.endpoint}"`,
    });
    kubelet = new Client(lab.berthd.endpoint, credentials.createInsecure());
  });
  after(async () => {
    kubelet.close();
    await lab.close();
    receiver.close();
  });

  /** A call as a kubelet with tracing makes it. */
  async function call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    flags = '01',
  ): Promise<Response> {
    const metadata = new Metadata();
    metadata.set('traceparent', `00-${TRACE}-${PARENT}-${flags}`);
    metadata.set('tracestate', 'vendor=1');
    const { promise, resolve, reject } = Promise.withResolvers<Response>();
    const { path, requestSerialize, responseDeserialize } = method;
    kubelet.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, metadata, (err, response) =>
      response === undefined ? reject(err ?? new Error('empty answer')) : resolve(response),
    );
    return await promise;
  }

  const childrenOf = (spans: readonly ReceivedSpan[], parent: ReceivedSpan): ReceivedSpan[] =>
    spans.filter(({ parentId }) => parentId === parent.spanId);

  test('RunPodSandbox: the call below the kubelet, steps below the call, programs below their step', async () => {
    const config = lab.podConfig();
    const { podSandboxId } = await call(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }));
    const root = await receiver.span('RunPodSandbox');
    const spans = await receiver.spans(1);
    assert.deepEqual([root.traceId, root.parentId, root.kind, root.status?.code], [TRACE, PARENT, 2, 1]);
    assert.equal(root.service, 'berthd');
    const told = Object.fromEntries(root.attributes);
    assert.equal(told['k8s.pod.name'], config.metadata?.name);
    assert.equal(told['k8s.namespace.name'], config.metadata?.namespace);
    assert.equal(told['k8s.pod.uid'], config.metadata?.uid);
    assert.equal(told['berth.sandbox.id'], podSandboxId);
    const steps = childrenOf(spans, root);
    assert.ok(steps.length >= 4, steps.map(({ name }) => name).join());
    for (const step of steps) {
      assert.ok(step.startNs >= root.startNs && step.endNs <= root.endNs && step.startNs <= step.endNs, step.name);
      assert.equal(step.attributes.get('berth.pipeline'), 'RunPodSandbox');
      assert.equal(step.attributes.get('berth.subject'), podSandboxId);
    }
    const bridge = spans.find(({ name }) => name === 'bridge ADD') ?? assert.fail('no span of the plugin');
    assert.equal(bridge.kind, 3);
    assert.ok(
      steps.some(({ spanId }) => spanId === bridge.parentId),
      'the plugin is below a step',
    );
    assert.ok(spans.every(({ traceId }) => traceId === TRACE));
  });

  test('a step that fails and those that are undone are told, with the reason', async () => {
    const podSandboxId = await lab.runPod(lab.podConfig());
    const request = CreateContainerRequest.create({
      podSandboxId,
      config: { metadata: { name: 'c', attempt: 0 }, image: { image: lab.imageId }, command: ['/no/such/program'] },
      sandboxConfig: lab.podConfig(),
    });
    await assert.rejects(call(runtime.createContainer, request), (err: ServiceError) => err.details !== '');
    const root = await receiver.span('CreateContainer');
    assert.equal(root.status?.code, 2);
    assert.match(root.status?.message ?? '', /no\/such\/program/);
    assert.match(String(root.attributes.get('error.type')), /^\w+$/);
    const own = childrenOf(await receiver.spans(1), root);
    const failed = own.filter(({ status }) => status?.code === 2);
    assert.equal(failed.length, 1);
    assert.ok(
      own.some(({ name }) => name.startsWith('undo ')),
      own.map(({ name }) => name).join(),
    );
  });

  test('a caller that does not sample has no spans; what was sent is counted', async () => {
    const before = (await receiver.spans(1)).length;
    await call(runtime.status, { verbose: false }, '00');
    await lab.runPod(lab.podConfig());
    await call(runtime.version, { version: '' });
    await receiver.span('Version');
    assert.equal((await receiver.spans(1)).length, before + 1);
    assert.match(await lab.berthd.metrics(), /^berth_trace_spans_total\{outcome="exported"\} [1-9]\d*$/m);
  });
});
