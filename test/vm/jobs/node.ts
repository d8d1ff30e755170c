/** The node that the virtual machine is: its berthd as systemd runs it, and pods that tell whether they were left alone. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

import {
  ContainerState,
  ListPodSandboxRequest,
  PodSandboxState,
  RuntimeServiceService as runtime,
  VersionRequest,
} from '../../../proto/gen/cri/api.ts';
import { CriConnection } from '../../harness/cri-connection.ts';
import { CriLab, eventually, type LogLine, readLog } from '../../harness/cri-lab.ts';

const ENDPOINT = 'unix:///run/berth/berth.sock';
/** What test/vm/jobs/install.sh loads. */
const IMAGE = /^IMAGE='(.*)'$/m.exec(readFileSync('vm/settings', 'utf8'))?.[1] ?? '';
const COMMAND_TIMEOUT_MS = 300_000;
/** Everything takes long when every instruction is emulated. */
const ANSWER_TIMEOUT_MS = 180_000;
/**
 * Counts for ever, once a second: a line that is missing, or a number that comes again, shows. It waits without starting
 * a process, which would be half of what an emulated processor can do.
 */
const COUNTING = ['sh', '-c', 'mkfifo /f; exec 3<>/f; i=0; while :; do i=$((i + 1)); echo $i; read -t 1 _ <&3; done'];

/** A pod whose container counts into its log. */
export interface CountingPod {
  readonly id: string;
  readonly containerId: string;
  readonly startedAt: bigint;
  readonly pid: number;
}

/** Words for what jobs do with the node. Pods live below kubepods.slice, where the kubelet puts them. */
export function openNode(namespace: string): CriLab & Disposable {
  const connection = new CriConnection(ENDPOINT);
  const lab = new CriLab(connection, {
    image: IMAGE,
    logs: `/var/log/pods/${namespace}`,
    cgroupParent: '/kubepods.slice/kubepods-besteffort.slice',
    namespace,
  });
  return Object.assign(lab, { [Symbol.dispose]: () => connection.close() });
}

/** Runs a program and returns what it wrote. Throws when it fails. */
export function command(name: string, ...args: readonly string[]): string {
  return execFileSync(name, args, { encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS }).trim();
}

/** A property of berthd's unit, as `systemctl show` tells it. */
export function unitProperty(name: string): string {
  return command('systemctl', 'show', '--value', `--property=${name}`, 'berthd.service');
}

/** Waits until berthd answers. */
export async function answers(node: CriLab): Promise<void> {
  const giveUpAt = performance.now() + ANSWER_TIMEOUT_MS;
  for (;;) {
    try {
      await node.client.call(runtime.version, VersionRequest.create());
      return;
    } catch (err) {
      if (performance.now() > giveUpAt) throw err;
    }
    // Not more often: asking takes the one processor from berthd's start.
    await delay(250);
  }
}

/** Starts so many pods that count, one after the other. */
export async function startCounting(node: CriLab, count: number): Promise<CountingPod[]> {
  const pods: CountingPod[] = [];
  while (pods.length < count) {
    const id = await node.runPod();
    const containerId = await node.start(id, { command: COUNTING });
    const { startedAt } = await node.status(containerId);
    pods.push({ id, containerId, startedAt, pid: (await node.info(containerId)).pid });
  }
  return pods;
}

/** Fails unless the pods run on, with the processes they had, and their logs count on, with no number missing. */
export async function assertUntouched(node: CriLab, pods: readonly CountingPod[]): Promise<void> {
  const logs: string[] = [];
  for (const pod of pods) {
    const sandbox = (await node.podStatus(pod.id)).status;
    assert.equal(sandbox?.state, PodSandboxState.SANDBOX_READY, pod.id);
    const status = await node.status(pod.containerId);
    assert.equal(status.state, ContainerState.CONTAINER_RUNNING, pod.containerId);
    assert.equal(status.startedAt, pod.startedAt, `${pod.containerId} was started again`);
    assert.equal((await node.info(pod.containerId)).pid, pod.pid, `${pod.containerId} has another process`);
    logs.push(status.logPath);
  }
  const lengths = logs.map((path) => readLog(path).length);
  for (const [index, path] of logs.entries()) await assertCountsOn(path, lengths[index] ?? 0);
}

/** Fails unless the log counts from 1 without a gap, and beyond that many lines. */
async function assertCountsOn(path: string, soFar: number): Promise<void> {
  const longer = (): LogLine[] | undefined => {
    const lines = readLog(path);
    return lines.length > soFar + 1 ? lines : undefined;
  };
  const log = await eventually(`${path} goes on`, longer, ANSWER_TIMEOUT_MS);
  const numbers = log.map(({ text }) => Number(text));
  const gap = numbers.findIndex((number, index) => number !== index + 1);
  assert.equal(gap, -1, `${path}: line ${gap + 1} is ${numbers[gap]}`);
}

/** The longest time between two lines of the pods' logs, in ms: a monitor that was held up would show in it. */
export async function longestSilenceMs(node: CriLab, pods: readonly CountingPod[]): Promise<number> {
  let longest = 0;
  for (const { containerId } of pods) {
    const times = readLog((await node.status(containerId)).logPath).map(({ timeMs }) => timeMs);
    for (const [index, time] of times.entries()) longest = Math.max(longest, time - (times[index - 1] ?? time));
  }
  return longest;
}

/** Removes all pods of the node. */
export async function removeAllPods(node: CriLab): Promise<void> {
  const { items } = await node.client.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
  for (const { id } of items) await node.removePod(id);
}
