/**
 * The thread that talks to the cluster. It alone loads @kubernetes/client-node, which takes a quarter of a second and
 * 65 MB: berthd without a kubeconfig never does, and one with it goes on meanwhile.
 */

import * as threads from 'node:worker_threads';

import {
  CoreV1Api,
  EventsV1Api,
  KubeConfig,
  NodeV1Api,
  type V1Node,
  type V1RuntimeClass,
} from '@kubernetes/client-node';

import { EventRecorder } from './event-recorder.ts';
import type { FromThread, ThreadSettings, ToThread } from './messages.ts';
import { Watched } from './watched.ts';

async function main(settings: ThreadSettings, port: threads.MessagePort): Promise<void> {
  const tell = (message: FromThread): void => port.postMessage(message);
  const config = new KubeConfig();
  config.loadFromFile(settings.kubeconfig);
  if (settings.sendEvents) {
    const recorder = new EventRecorder({
      api: config.makeApiClient(EventsV1Api),
      nodeName: settings.nodeName,
      onProblem: (problem) => tell({ kind: 'problem', what: 'events', problem }),
    });
    port.on('message', ({ notice }: ToThread) => recorder.record(notice));
  } else {
    // Without a listener the thread would end.
    port.on('message', () => {});
  }
  await Promise.all([watchNode(config, settings.nodeName, tell), watchRuntimeClasses(config, tell)]);
}

async function watchNode(config: KubeConfig, name: string, tell: (message: FromThread) => void): Promise<void> {
  const core = config.makeApiClient(CoreV1Api);
  const fieldSelector = `metadata.name=${name}`;
  let told = '';
  await new Watched<V1Node>({
    config,
    path: '/api/v1/nodes',
    fieldSelector,
    list: async () => await core.listNode({ fieldSelector }),
    onChange: (nodes) => {
      const ranges = rangesOf(nodes.find((node) => node.metadata?.name === name));
      if (ranges.length === 0 || ranges.join() === told) return;
      told = ranges.join();
      tell({ kind: 'podRanges', ranges });
    },
    onUnauthorized: endThread,
    onProblem: (problem) => tell({ kind: 'problem', what: 'node', problem }),
  }).start();
}

async function watchRuntimeClasses(config: KubeConfig, tell: (message: FromThread) => void): Promise<void> {
  const api = config.makeApiClient(NodeV1Api);
  await new Watched<V1RuntimeClass>({
    config,
    path: '/apis/node.k8s.io/v1/runtimeclasses',
    list: async () => await api.listRuntimeClass(),
    onChange: (found) => {
      const classes = found.map(({ metadata, handler }) => ({ name: metadata?.name ?? '', handler }));
      tell({ kind: 'runtimeClasses', classes });
    },
    onUnauthorized: endThread,
    onProblem: (problem) => tell({ kind: 'problem', what: 'runtime classes', problem }),
  }).start();
}

// berthd starts the thread again after a pause, which reads the kubeconfig anew.
function endThread(): void {
  process.exit(1);
}

/** None while the controller manager has not given the node its addresses yet. */
function rangesOf(node: V1Node | undefined): readonly string[] {
  const { podCIDRs = [], podCIDR } = node?.spec ?? {};
  if (podCIDRs.length > 0) return podCIDRs;
  return podCIDR ? [podCIDR] : [];
}

const { parentPort, workerData }: { parentPort: threads.MessagePort | null; workerData: unknown } = threads;
if (parentPort) await main(workerData as ThreadSettings, parentPort);
