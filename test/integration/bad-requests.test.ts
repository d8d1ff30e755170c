/**
 * Whatever a client sends, berthd answers it, with a status that says whose mistake it was, goes on, and keeps nothing.
 * Requests are made from the CRI's own description. BERTH_FUZZ_SEED repeats a run, BERTH_FUZZ_RUNS makes it longer.
 */

import assert from 'node:assert/strict';
import { appendFileSync, readFileSync, statSync } from 'node:fs';
import { after, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';
import fc, { type Arbitrary } from 'fast-check';

import {
  ContainerStatusRequest,
  CreateContainerResponse,
  RestorePodResponse,
  RunPodSandboxResponse,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { describe } from '../../src/base/errors.ts';
import { RequestMaker } from '../fakes/cri-requests.ts';
import {
  encodeRequest,
  fieldNames,
  mapTexts,
  readWireSchema,
  showRequest,
  type WireMessage,
  type WireMethod,
  type WireRequest,
} from '../fakes/cri-wire.ts';
import { FakeRegistry, fakeImage } from '../fakes/registry.ts';
import { eventually } from '../harness/cri-lab.ts';
import { type RawAnswer, RawClient } from '../harness/raw-calls.ts';
import { RequestScene } from '../harness/request-scene.ts';
import { CONTAINER_IDS, requestWords, rightRequests } from './right-requests.ts';

const SEED = Number(process.env['BERTH_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
/** Requests per RPC and way of making them; those that make pods and containers take longer and get fewer. */
const RUNS = Number(process.env['BERTH_FUZZ_RUNS'] ?? 40);
/** How much fewer. */
const SLOW_SHARE = 4;
const CALL_TIMEOUT_MS = 30_000;
/** For the requests of one way, and for finding the smallest one that fails. */
const WAY_TIMEOUT_MS = Number(process.env['BERTH_FUZZ_WAY_TIMEOUT_MS'] ?? 900_000);
/** Bytes of heap, code and buffers that berthd may have at the end of it all. */
const MAX_RESIDENT_BYTES = 450 * 1024 * 1024;

/** Whose mistake it was is told by the code. Internal and Unknown say that it was Berth's. */
const CALLERS: ReadonlySet<status> = new Set([
  status.OK,
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.ALREADY_EXISTS,
  status.FAILED_PRECONDITION,
  status.OUT_OF_RANGE,
  status.RESOURCE_EXHAUSTED,
  status.PERMISSION_DENIED,
]);
/** Also what is not there now and may be later: registries. */
const REMOTE: ReadonlySet<string> = new Set(['PullImage']);
/** RPCs that make something, and that take something away or change it. All others only read. */
const MAKES: ReadonlySet<string> = new Set(['RunPodSandbox', 'CreateContainer', 'RestorePod']);
const CHANGES: ReadonlySet<string> = new Set([
  ...['StopPodSandbox', 'RemovePodSandbox', 'StartContainer', 'StopContainer', 'RemoveContainer', 'ReopenContainerLog'],
  ...['UpdateContainerResources', 'UpdatePodSandboxResources', 'CheckpointContainer', 'CheckpointPod', 'ExecSync'],
]);

/** A file that gets a line for each request and its answer. */
const TRACE = process.env['BERTH_FUZZ_TRACE'];

const schema = readWireSchema();
const maker = new RequestMaker(schema, requestWords);
let registry: FakeRegistry;
let scene: RequestScene;
let client: RawClient;
let pid = 0;
let cases = 0;
let slowestMs = 0;
const codes = new Map<string, number>();

before(async () => {
  registry = await FakeRegistry.start();
  registry.auth = { kind: 'bearer', issue: ({ authorization }) => (authorization === '' ? 'good' : undefined) };
  registry.add('team/app', fakeImage(['no archive']), 'v1');
  scene = await RequestScene.start(registry.host);
  client = new RawClient(scene.lab.berthd.endpoint);
  ({ pid } = scene.lab.berthd);
  process.stderr.write(`bad requests: BERTH_FUZZ_SEED=${SEED} BERTH_FUZZ_RUNS=${RUNS}\n`);
});
after(async () => {
  const counts = [...codes].sort().map(([code, count]) => `${code} ${count}`);
  process.stderr.write(`bad requests: ${cases} in all, ${counts.join(', ')}, slowest ${Math.round(slowestMs)} ms\n`);
  client[Symbol.dispose]();
  try {
    await scene[Symbol.asyncDispose]();
  } finally {
    // One that listens would keep this process, and with it the report of what is left.
    await registry.close();
  }
});

for (const method of schema.methods) {
  suite(method.name, { timeout: 3_600_000 }, () => {
    const right = rightRequests[method.name] ?? [{}];
    const names = fieldNames(schema, method.request);
    const ways: [string, Arbitrary<WireRequest>][] = [['any message', maker.arbitrary(method.request)]];
    if (names.size > 0) ways.push(['a right message with one thing wrong', maker.mutated(method.request, right)]);
    const idField = CONTAINER_IDS.find((name) => schema.messages[method.request]?.[name]);
    if (idField) ways.push(['another id', maker.otherId(right, idField)]);
    for (const [way, requests] of ways) test(way, async () => await holds(method, names, requests));
  });
}

test('no message, two messages, one that is too large, for each RPC', async () => {
  for (const { service, name } of schema.methods) {
    const path = `/runtime.v1.${service}/${name}`;
    for (const messages of [[], [Buffer.alloc(0), Buffer.alloc(0)], [Buffer.alloc(17 * 1024 * 1024)]]) {
      const leaveAfter = { messages: 3, quietMs: 100 };
      const { code, details } = await client.call(path, messages, { timeoutMs: CALL_TIMEOUT_MS, leaveAfter });
      const allowed = CALLERS.has(code) || code === status.UNIMPLEMENTED;
      assert.ok(allowed, `${name} with ${messages.length} messages: ${status[code]} ${details}`);
    }
  }
});

test('berthd has lived through it, and has not grown', async () => {
  assert.equal(scene.lab.berthd.pid, pid);
  const [, resident = ''] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  process.stderr.write(`bad requests: berthd has ${resident} kB and ${scene.openFiles()} files\n`);
  assert.ok(Number(resident) * 1024 < MAX_RESIDENT_BYTES, `${resident} kB`);
});

/** Sends generated requests until one is answered as it should not be; then finds the smallest such one. */
async function holds(method: WireMethod, names: ReadonlySet<string>, requests: Arbitrary<WireRequest>): Promise<void> {
  const isSlow = MAKES.has(method.name) || CHANGES.has(method.name);
  const numRuns = Math.ceil(RUNS / (isSlow ? SLOW_SHARE : 1));
  const filesBefore = scene.openFiles();
  const logBefore = statSync(scene.lab.berthd.logFile).size;
  const property = fc.asyncProperty(requests, async (request) => await answersWell(method, names, request));
  const result = await fc.check(property, { seed: SEED, numRuns, interruptAfterTimeLimit: WAY_TIMEOUT_MS });
  if (result.failed) {
    const [request] = result.counterexample ?? [];
    const said = result.interrupted ? 'no end in time' : describe(result.errorInstance);
    const how = `BERTH_FUZZ_SEED=${SEED}, path ${result.counterexamplePath}`;
    const problem = `${method.name} ${request ? showRequest(request) : ''}\n${said}\n${how}`;
    process.stderr.write(`bad requests: ${problem}\n${scene.lab.berthd.log()}\n`);
    assert.fail(problem);
  }
  await scene.putBack(false);
  const log = readFileSync(scene.lab.berthd.logFile, 'utf8').slice(logBefore).split('\n');
  const bugs = log.filter((line) => /"kind":"internal"|"stack":|uncaught|unhandled/i.test(line));
  assert.deepEqual(bugs.slice(0, 3), [], 'the log has bugs in it');
  // Connections to a registry are kept for ten seconds, and what works on the disk for five.
  const most = filesBefore + 20;
  await eventually(`at most ${most} files are open`, () => scene.openFiles() <= most || undefined).catch(() =>
    assert.fail(`${scene.openFiles()} open files, and ${filesBefore} before`),
  );
}

/** Sends one request and looks at all that it must not do. */
async function answersWell(method: WireMethod, names: ReadonlySet<string>, request: WireRequest): Promise<void> {
  const resolved = mapTexts(request, (text) => scene.resolve(text));
  const bytes = encodeRequest(schema, method.request, resolved);
  const answer = await client.call(`/runtime.v1.${method.service}/${method.name}`, [bytes], {
    timeoutMs: CALL_TIMEOUT_MS,
    ...(method.isStream ? { leaveAfter: { messages: 3, quietMs: 50 } } : {}),
  });
  cases += 1;
  slowestMs = Math.max(slowestMs, answer.tookMs);
  codes.set(status[answer.code], (codes.get(status[answer.code]) ?? 0) + 1);
  if (TRACE !== undefined)
    appendFileSync(TRACE, `${status[answer.code]} ${method.name} ${answer.details} <= ${showRequest(request)}\n`);
  const isReading = !CHANGES.has(method.name) && !MAKES.has(method.name);
  try {
    checkText(method, names, resolved.fields, answer);
    if (MAKES.has(method.name)) await checkMade(method.name, answer);
  } catch (err) {
    // The next one, which may be simpler, must not be blamed for what this one has made.
    if (!isReading) await scene.putBack(false);
    throw err;
  }
  if (!isReading) await scene.putBack(answer.code === status.OK && method.name.startsWith('Update'));
}

function checkText(method: WireMethod, names: ReadonlySet<string>, fields: WireMessage, answer: RawAnswer): void {
  const { code, details } = answer;
  const said = `${status[code]} ${details.slice(0, 1000)}`;
  const isRemote = code === status.UNAVAILABLE || (code === status.UNKNOWN && /^RegistryUnavailable: /.test(details));
  assert.ok(CALLERS.has(code) || (isRemote && REMOTE.has(method.name)), said);
  if (code === status.OK) return;
  assert.doesNotMatch(details, /\n\s+at |node_modules|\.ts:\d|\.js:\d/, said);
  assert.ok(details.length > 5 && details.length < 5000, `${details.length} characters: ${said}`);
  const texts = textsOf(fields).filter((text) => text.length > 0);
  const isNamed =
    details.startsWith('request: ') ||
    /^runtime handler \S+ cannot checkpoint/.test(details) ||
    (code === status.NOT_FOUND && details.includes("''")) ||
    [...names].some((name) => new RegExp(`(^|[^a-zA-Z_])${name}([^a-zA-Z_]|$)`).test(details)) ||
    texts.some((text) => details.includes(text.slice(0, 12)));
  assert.ok(isNamed, `names neither a field nor the object: ${said}`);
}

function textsOf(value: WireMessage[string]): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value instanceof Uint8Array) return [];
  return Object.values(value).flatMap((one) => textsOf(one as WireMessage[string]));
}

async function checkMade(rpc: string, answer: RawAnswer): Promise<void> {
  if (answer.code === status.OK) await useWhatWasMade(rpc, answer);
  assert.deepEqual(await scene.strangers(), { pods: [], containers: [] }, 'something is there that was not before');
  if (answer.code !== status.OK) assert.deepEqual(scene.leftBehind(), [], 'a refused request has left something');
}

/** What a strange request has made must be as good as any other: it shows, it may start, and it can be removed. */
async function useWhatWasMade(rpc: string, { messages }: RawAnswer): Promise<void> {
  const [message = Buffer.alloc(0)] = messages;
  const { berthd } = scene.lab;
  const pod =
    rpc === 'CreateContainer'
      ? ''
      : (rpc === 'RunPodSandbox' ? RunPodSandboxResponse : RestorePodResponse).decode(message).podSandboxId;
  if (pod !== '') {
    await scene.lab.podInfo(pod);
    await scene.lab.removePod(pod);
    return;
  }
  const { containerId } = CreateContainerResponse.decode(message);
  await berthd.call(runtime.containerStatus, ContainerStatusRequest.create({ containerId, verbose: true }));
  const started = await client.call('/runtime.v1.RuntimeService/StartContainer', [idBytes(containerId)], {
    timeoutMs: CALL_TIMEOUT_MS,
  });
  assert.ok(CALLERS.has(started.code), `start: ${status[started.code]} ${started.details}`);
  await berthd.call(runtime.containerStatus, ContainerStatusRequest.create({ containerId, verbose: true }));
  await berthd.call(runtime.removeContainer, { containerId });
}

function idBytes(containerId: string): Buffer {
  return encodeRequest(schema, 'StartContainerRequest', { fields: { container_id: containerId } });
}
