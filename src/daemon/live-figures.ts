import { statSync } from 'node:fs';
import { join } from 'node:path';

import type { Cni } from '../cni/cni.ts';
import type { DiskWorkers } from '../image/disk-workers.ts';
import type { Images } from '../image/images.ts';
import type { LayerStore } from '../image/layer-store.ts';
import { by, type LiveFigures } from '../metrics/prometheus.ts';
import type { Finding } from '../node/finding.ts';
import type { PodDeps } from '../pod/pod-deps.ts';
import type { PodEvents } from '../pod/pod-events.ts';
import type { ReconcileReport } from '../pod/reconcile.ts';
import type { StreamServer } from '../server/streaming/stream-server.ts';
import { DefunctProcesses } from '../sys/defunct-processes.ts';

/** What figures are read from. */
interface FigureParts {
  readonly root: string;
  readonly version: string;
  readonly pods: Pick<PodDeps, 'sandboxes' | 'containers' | 'locks' | 'processes' | 'handlers' | 'spareNetworks'>;
  readonly cni: Pick<Cni, 'hasNetwork' | 'attachmentLocks'>;
  readonly images: Pick<Images, 'list' | 'pullsInFlight'>;
  readonly layers: Pick<LayerStore, 'all'>;
  readonly disk: Pick<DiskWorkers, 'load'>;
  readonly events: Pick<PodEvents, 'subscribers'>;
  readonly streams: Pick<StreamServer, 'sessions'>;
  readonly reconciled: Omit<ReconcileReport, 'orphansGone'>;
  /** When certificates in use end, of those servers that have one. */
  readonly certificates: Readonly<Record<'stream' | 'metrics', () => Date | undefined>>;
  readonly linesLost: () => number;
  /** Of the last berth doctor; undefined before. */
  readonly doctorFound: () => readonly Pick<Finding, 'severity'>[] | undefined;
}

/** The gauges that are read from other rooms when somebody scrapes. Each costs a look at memory, or two stat(). */
export function liveFigures(parts: FigureParts): LiveFigures {
  const { pods, cni, disk, events, streams } = parts;
  const defunct = new DefunctProcesses();
  const readyAtSeconds = Date.now() / 1000;
  return {
    ...imageFigures(parts),
    berth_build_info: () => [[{ version: parts.version, node: process.version }, 1]],
    berth_ready_timestamp_seconds: () => readyAtSeconds,
    berth_sandboxes: () => by('state', countBy(pods.sandboxes.all())),
    berth_containers: () => by('state', countBy(pods.containers.all())),
    berth_lock_keys: () =>
      by('lock', [
        ['pod', pods.locks.size],
        ['network', cni.attachmentLocks.size],
      ]),
    berth_lock_waiters: () =>
      by('lock', [
        ['pod', pods.locks.waiting],
        ['network', cni.attachmentLocks.waiting],
      ]),
    berth_processes_running: () => pods.processes.running,
    berth_processes_defunct: () => defunct.count(),
    berth_runtime_handler_usable: () =>
      by(
        'handler',
        pods.handlers.statuses().map((status) => [status.name, 'handler' in status ? 1 : 0]),
      ),
    berth_runtime_handler_default: () => by('handler', [[pods.handlers.defaultName, 1]]),
    berth_cni_network_usable: () => (cni.hasNetwork ? 1 : 0),
    berth_cni_spare_networks: () => pods.spareNetworks.ready,
    berth_event_subscribers: () => events.subscribers,
    berth_streams: () => streams.sessions,
    berth_disk_jobs_running: () => disk.load().running,
    berth_disk_jobs_waiting: () => disk.load().waiting,
    berth_database_bytes: () =>
      by('file', [
        ['main', sizeOf(parts.root, '')],
        ['wal', sizeOf(parts.root, '-wal')],
      ]),
    berth_log_lines_lost_total: parts.linesLost,
    berth_certificate_expiry_timestamp_seconds: () => by('endpoint', certificateEnds(parts.certificates)),
    berth_reconcile_items: () => by('what', reconcileCounts(parts.reconciled)),
    berth_doctor_findings: () => {
      const found = parts.doctorFound();
      return (
        found &&
        by(
          'severity',
          ['error', 'warning', 'info'].map((one) => [one, found.filter(({ severity }) => severity === one).length]),
        )
      );
    },
  };
}

function imageFigures({ images, layers }: FigureParts): LiveFigures {
  const inFlight = () => images.pullsInFlight().flatMap((pull) => pull.layers);
  return {
    berth_images: () => images.list().length,
    berth_image_layers: () => layers.all().length,
    berth_image_layers_bytes: () => layers.all().reduce((sum, layer) => sum + layer.sizeBytes, 0),
    berth_image_pulls_in_flight: () => images.pullsInFlight().length,
    berth_image_pull_bytes_left: () => inFlight().reduce((sum, layer) => sum + layer.bytesTotal - layer.bytesDone, 0),
    berth_image_layers_in_flight: () => by('state', countPhases(inFlight())),
  };
}

function certificateEnds(certificates: FigureParts['certificates']): [string, number][] {
  return Object.entries(certificates).flatMap(([endpoint, endsAt]): [string, number][] => {
    const at = endsAt();
    return at ? [[endpoint, at.getTime() / 1000]] : [];
  });
}

function reconcileCounts(report: FigureParts['reconciled']): [string, number][] {
  return [
    ['adopted_sandboxes', report.adoptedSandboxes],
    ['adopted_containers', report.adoptedContainers],
    ['finished', report.finished],
    ['orphans', report.orphans],
    ['problems', report.problems.length],
  ];
}

/** Named also when there are none, so that graphs fall to zero. */
function countPhases(layers: readonly { readonly phase: string }[]): Map<string, number> {
  const counts = new Map(['waiting', 'downloading', 'unpacking'].map((phase) => [phase, 0]));
  for (const { phase } of layers) if (counts.has(phase)) counts.set(phase, (counts.get(phase) ?? 0) + 1);
  return counts;
}

/** How many are in each state. */
export function countBy(records: readonly { readonly state: string }[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { state } of records) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
}

function sizeOf(root: string, suffix: string): number {
  return statSync(join(root, `berth.db${suffix}`), { throwIfNoEntry: false })?.size ?? 0;
}
