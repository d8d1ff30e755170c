import type { Readable } from 'node:stream';

import {
  ExecRequest,
  ExecSyncRequest,
  PortForwardRequest,
  RemovePodSandboxRequest,
  RuntimeServiceService,
  StopPodSandboxRequest,
} from '../../proto/gen/cri/api.ts';
import type { Connection } from '../../src/cli/connection.ts';
import { connectCommand, connectPortForward } from '../../test/fakes/stream-client.ts';
import { type PodWish, raiseOnePod, type StandingPod } from './lifecycle.ts';
import { processBusyMs } from './processor-time.ts';

const PORT = 7000;
/** As the API server asks, whatever its own client speaks. */
const TRANSPORT = 'spdy';
const LISTEN_TRIES = 200;

/** How fast one stream was. */
export interface Throughput {
  readonly bytesPerSecond: number;
  /** Processor time of the daemon itself for a megabyte, in milliseconds; undefined when it is not to be seen from here. */
  readonly daemonMsPerMegabyte: number | undefined;
}

/** The streams of one pod. */
export interface StreamRun {
  readonly exec: Throughput;
  readonly portForward: Throughput;
}

/** Reads zeros out of a pod of its own, from the standard output of an exec and from a forwarded port. */
export async function measureStreams(
  cri: Connection,
  wish: PodWish,
  { bytes, pid }: { readonly bytes: number; readonly pid: number | undefined },
  signal: AbortSignal,
): Promise<StreamRun> {
  const pod = await raiseOnePod(cri, wish, signal);
  const { podSandboxId } = pod;
  try {
    const exec = await timed(pid, bytes, () => readExec(cri, pod, bytes));
    await listen(cri, pod, bytes);
    const portForward = await timed(pid, bytes, () => readPort(cri, pod));
    return { exec, portForward };
  } finally {
    await cri.call(RuntimeServiceService.stopPodSandbox, StopPodSandboxRequest.create({ podSandboxId }));
    await cri.call(RuntimeServiceService.removePodSandbox, RemovePodSandboxRequest.create({ podSandboxId }));
  }
}

async function timed(pid: number | undefined, bytes: number, read: () => Promise<number>): Promise<Throughput> {
  const [busyMs, startedMs] = [pid === undefined ? 0 : processBusyMs(pid), performance.now()];
  const came = await read();
  const tookMs = performance.now() - startedMs;
  if (came !== bytes) throw new Error(`a stream of ${bytes} bytes brought ${came}`);
  const daemonMs = pid === undefined ? undefined : processBusyMs(pid) - busyMs;
  return {
    bytesPerSecond: (bytes * 1000) / tookMs,
    daemonMsPerMegabyte: daemonMs === undefined ? undefined : (daemonMs * 1e6) / bytes,
  };
}

async function readExec(cri: Connection, { containerId }: StandingPod, bytes: number): Promise<number> {
  const cmd = ['head', '-c', String(bytes), '/dev/zero'];
  const { url } = await cri.call(
    RuntimeServiceService.exec,
    ExecRequest.create({ containerId, cmd, stdout: true, stderr: true }),
  );
  const client = await connectCommand(url, TRANSPORT, { stdout: true, stderr: true });
  const [came, , status] = await Promise.all([
    countBytes(client.stdout),
    countBytes(client.stderr),
    readText(client.error),
  ]);
  client.close();
  await client.closed;
  if (!status.includes('"Success"')) throw new Error(`exec of a stream ended with ${status}`);
  return came;
}

/** Has the container answer each connection to the port with zeros, and waits until it does. */
async function listen(cri: Connection, { containerId }: StandingPod, bytes: number): Promise<void> {
  const serve = `nc -ll -p ${PORT} -e head -c ${bytes} /dev/zero </dev/null >/dev/null 2>&1 &
    for try in $(seq ${LISTEN_TRIES}); do netstat -ltn | grep -q ':${PORT} ' && exit; sleep 0.05; done; exit 1`;
  const { exitCode } = await cri.call(
    RuntimeServiceService.execSync,
    ExecSyncRequest.create({ containerId, cmd: ['sh', '-c', serve], timeout: 30n }),
  );
  if (exitCode !== 0) throw new Error('nothing listens in the pod whose port is to be forwarded');
}

async function readPort(cri: Connection, { podSandboxId }: StandingPod): Promise<number> {
  const { url } = await cri.call(
    RuntimeServiceService.portForward,
    PortForwardRequest.create({ podSandboxId, port: [PORT] }),
  );
  const client = await connectPortForward(url, TRANSPORT);
  const { data, error } = await client.connect(PORT);
  const came = await countBytes(data);
  data.end();
  // A reset says nothing.
  const said = await error.catch(() => '');
  client.close();
  await client.closed;
  if (said !== '') throw new Error(`forwarding a port failed: ${said}`);
  return came;
}

/** To the end of a stream, or to its reset, which is how servers written in Go end one. */
async function countBytes(stream: Readable): Promise<number> {
  let count = 0;
  stream.on('data', (chunk: Buffer) => {
    count += chunk.length;
  });
  await ended(stream);
  return count;
}

async function readText(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await ended(stream);
  return Buffer.concat(chunks).toString();
}

async function ended(stream: Readable): Promise<void> {
  stream.on('error', () => {});
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once('end', resolve);
  stream.once('close', resolve);
  await promise;
}
