import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';

import { ExecRequest, PortForwardRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { connectCommand, connectPortForward, exitCodeOf, type Transport } from '../fakes/stream-client.ts';
import type { PodLab } from '../harness/pod-lab.ts';

/** Where containers on a network of their own send back what they get. */
export const ECHO_PORT = 7000;
const NOBODYS_PORT = 7999;

/** How a client of a stream behaves: which protocol it speaks, and when it leaves. */
interface Manner {
  readonly transport: Transport;
  readonly leaves: 'when served' | 'in one piece with its end' | 'without a word';
}

function mannerOf(choice: number): Manner {
  const leaves = (['when served', 'in one piece with its end', 'without a word'] as const)[choice % 3];
  return { transport: choice % 2 === 0 ? 'spdy' : 'websocket', leaves: leaves ?? 'when served' };
}

/** Has a command send back its input. Rejects when berthd does not let go of the client within `timeoutMs`. */
export async function useExec(
  { berthd }: PodLab,
  containerId: string,
  choice: number,
  timeoutMs: number,
): Promise<void> {
  const { transport, leaves } = mannerOf(choice);
  const wanted = { stdin: true, stdout: true };
  const request = ExecRequest.create({ containerId, cmd: ['cat'], ...wanted });
  const { url } = await berthd.call(runtime.exec, request, timeoutMs);
  const client = await connectCommand(url, transport, wanted);
  for (const stream of [client.stdin, client.stdout, client.error]) stream.on('error', () => {});
  if (leaves === 'when served') {
    const answer = Promise.all([text(client.stdout), client.status()]);
    client.stdin.end('here');
    const [said, status] = await within(answer, timeoutMs);
    assert.deepEqual([said, exitCodeOf(status)], ['here', 0]);
    client.close();
  } else if (leaves === 'in one piece with its end') {
    client.stdin.end('here');
    client.close();
  } else {
    client.stdin.write('here');
    client.vanish();
  }
  await within(client.closed, timeoutMs);
}

/** Connects to a port of a pod, of which one in four has no listener. Rejects as `useExec` does. */
export async function useForward(
  { berthd }: PodLab,
  podSandboxId: string,
  choice: number,
  timeoutMs: number,
): Promise<void> {
  const { transport, leaves } = mannerOf(choice);
  const { url } = await berthd.call(runtime.portForward, PortForwardRequest.create({ podSandboxId }), timeoutMs);
  const client = await connectPortForward(url, transport);
  const { data, error } = await within(
    client.connect(Math.trunc(choice / 6) % 4 === 1 ? NOBODYS_PORT : ECHO_PORT),
    timeoutMs,
  );
  data.on('error', () => {});
  if (leaves === 'when served') {
    data.write('here');
    // The container may not listen yet, or no more: then the error stream says so, and this one is reset.
    const answer = (data[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>).next();
    const said = answer.then(
      ({ value }) => assert.equal(value?.toString(), 'here'),
      async () => assert.match(await error, /takes no connection|stopped/),
    );
    await within(said, timeoutMs);
    data.end();
    client.close();
  } else if (leaves === 'in one piece with its end') {
    data.end();
    client.close();
  } else {
    data.write('here');
    client.vanish();
  }
  await within(client.closed, timeoutMs);
}

async function within<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`not served within ${timeoutMs} ms`)), timeoutMs);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
