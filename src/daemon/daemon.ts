import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { systemClock } from '../base/clock.ts';
import { BerthError, because, describe, wrap } from '../base/errors.ts';
import { type FaultPoints, openFaultPoints } from '../base/fault-points.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { makeFolders } from '../base/make-folders.ts';
import { type Notices, silentNotices } from '../base/notices.ts';
import { TlsFiles } from '../base/tls-files.ts';
import { Cluster } from '../cluster/cluster.ts';
import { Cni } from '../cni/cni.ts';
import { PodRanges } from '../cni/pod-ranges.ts';
import { parseAddress } from '../config/check-value.ts';
import { type ConfigChanges, compareConfigs, inForce } from '../config/compare-configs.ts';
import type { Config } from '../config/load-config.ts';
import { readArchive } from '../image/archive.ts';
import { DiskProcess } from '../image/disk-process.ts';
import { ImageFilesystems } from '../image/disk-usage.ts';
import { DiskWorkers } from '../image/disk-workers.ts';
import { ImageMounts } from '../image/image-mounts.ts';
import type { StoredImage } from '../image/image-record.ts';
import { Images } from '../image/images.ts';
import { LayerStore } from '../image/layer-store.ts';
import { hostPlatform } from '../image/platform.ts';
import { RegistryClient } from '../image/registry-client.ts';
import { Snapshots } from '../image/snapshots.ts';
import { streamArchive } from '../image/stream-archive.ts';
import { defaultTarLimits } from '../image/tar-reader.ts';
import { WritableLayers } from '../image/writable-layers.ts';
import { PrometheusMetrics } from '../metrics/prometheus.ts';
import { usesImage } from '../pod/image-volumes.ts';
import { ObservedJournals } from '../pod/observed-journals.ts';
import { PodCheckpoints } from '../pod/pod-checkpoints.ts';
import type { PodDeps } from '../pod/pod-deps.ts';
import { PodEvents } from '../pod/pod-events.ts';
import { PodStats } from '../pod/pod-stats.ts';
import { PodStreams } from '../pod/pod-streams.ts';
import { Pods } from '../pod/pods.ts';
import { settleReboot } from '../pod/reboot.ts';
import { reconcile } from '../pod/reconcile.ts';
import { RecordIndex } from '../pod/record-index.ts';
import type { ContainerRecord, SandboxRecord } from '../pod/records.ts';
import { SpareNetworks } from '../pod/spare-networks.ts';
import { Processes } from '../proc/processes.ts';
import { openCgroups } from '../runtime/cgroups/open-cgroups.ts';
import { ContainerRuntime } from '../runtime/container-runtime.ts';
import { findProgram, Handlers } from '../runtime/handlers.ts';
import { readHostFacts } from '../runtime/host-facts.ts';
import { SealedPrograms } from '../runtime/sealed-programs.ts';
import { GrpcServer } from '../server/grpc-server.ts';
import { askSelf } from '../server/self-check.ts';
import { buildServices } from '../server/services.ts';
import { StreamServer } from '../server/streaming/stream-server.ts';
import { Tracer } from '../server/tracing/tracer.ts';
import { FolderHold } from '../store/folder-hold.ts';
import { Store } from '../store/store.ts';
import { readBootId } from '../sys/boot-id.ts';
import { disturbFiles } from '../sys/faulty-files.ts';
import { NamespaceMaker } from '../sys/namespaces.ts';
import { readProcessStartTime } from '../sys/process.ts';
import { ProgramPages } from '../sys/program-pages.ts';
import { SpareHeap } from '../sys/spare-heap.ts';
import { ConfigFindings, type ReloadState } from './config-findings.ts';
import { DoctorFindings } from './doctor-findings.ts';
import { Heartbeat } from './heartbeat.ts';
import { countBy, liveFigures } from './live-figures.ts';
import { followConfig } from './live-parts.ts';
import type { DaemonLogger } from './logger.ts';
import { openSecurityParts } from './security-parts.ts';
import { SentTraces } from './sent-traces.ts';
import { ServedMetrics } from './served-metrics.ts';
import type { ServiceManager } from './service-manager.ts';
import { SpareMemory } from './spare-memory.ts';

/** What is stored, by the rooms that own it. */
interface Stored {
  readonly sandbox: SandboxRecord;
  readonly container: ContainerRecord;
  readonly image: StoredImage;
}

/** The fact under which the store has the boot of the machine that its records are of. */
const BOOT_ID = 'boot id';
/** And the one that tells when the first process began: a node that is a container is started anew without its kernel. */
const FIRST_PROCESS = 'start of process 1';

/** Beside the compiled program, in dist/native. */
const PAUSE_PATH = fileURLToPath(new URL('../../native/pause', import.meta.url));
const EXEC_MONITOR_PATH = fileURLToPath(new URL('../../native/exec-monitor', import.meta.url));
const EXEC_JOIN_PATH = fileURLToPath(new URL('../../native/exec-join', import.meta.url));
const FILTER_READER_PATH = fileURLToPath(new URL('../../native/filter-reader', import.meta.url));
const LATE_CLOSE_PATH = fileURLToPath(new URL('../../native/late-close.so', import.meta.url));

/**
 * One berthd: builds the rooms from the ground up and hands each what it needs. Parts that must be closed are put on a
 * stack as they come to life, and closed newest first, also when the start fails halfway.
 */
export class Daemon {
  #config: Config;
  readonly #version: string;
  readonly #log: DaemonLogger;
  readonly #service: ServiceManager;
  readonly #shutdown = new AbortController();
  readonly #closers: { name: string; close: () => Promise<void> | void }[] = [];
  readonly #faults: FaultPoints | undefined;
  /** Has the parts follow a new configuration; undefined until they are there. */
  #follow: ((next: Config, changed: readonly string[]) => Promise<void>) | undefined;
  #reloaded: ReloadState = { problem: '', waiting: [] };
  #countReload: (outcome: 'ok' | 'refused') => void = () => {};

  constructor(config: Config, version: string, log: DaemonLogger, service: ServiceManager) {
    this.#config = config;
    this.#version = version;
    this.#log = log;
    this.#service = service;
    this.#faults = openFaultPoints(process.env);
  }

  /** Starts everything and returns when clients are served. On an error everything is closed again. */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (err) {
      await this.close();
      throw err;
    }
  }

  /** Ends a start that is under way: start() throws as soon as it can. */
  abort(): void {
    this.#shutdown.abort(new BerthError('cancelled', 'berthd is stopping'));
  }

  /** Stops serving, waits for what is in flight, and closes all parts. Pods go on. */
  async close(): Promise<void> {
    this.#service.stopping();
    this.abort();
    for (let part = this.#closers.pop(); part; part = this.#closers.pop()) {
      try {
        await part.close();
      } catch (err) {
        this.#log.error({ part: part.name, err: describe(err) }, 'a part could not be closed');
      }
    }
  }

  /** Takes over from a new configuration what can change while pods run, all of it or nothing. */
  async reload(next: Config): Promise<ConfigChanges> {
    const follow = this.#follow;
    if (!follow) throw new BerthError('unavailable', 'berthd is still starting');
    const changes = compareConfigs(this.#config, next);
    await follow(inForce(this.#config, next), changes.live);
    this.#config = inForce(this.#config, next);
    this.#reloaded = { ...this.#reloaded, waiting: changes.waiting };
    return changes;
  }

  /** Notes what came of a reload, '' when it was taken over, for metrics and `berth config check`. */
  noteReload(problem: string): void {
    this.#reloaded = { ...this.#reloaded, problem };
    this.#countReload(problem === '' ? 'ok' : 'refused');
  }

  async #start(): Promise<void> {
    const startedMs = performance.now();
    const config = this.#config;
    const log = this.#log;
    const signal = this.#shutdown.signal;
    const faults = this.#faults;
    if (faults) {
      log.warn({ folder: faults.folder }, 'a test disturbs this berthd');
      disturbFiles(faults);
    }
    makeStateFolder(config.state);
    this.#service.starting('opens its database and asks the node what it can');
    // Two daemons with one state folder would clear away each other's pods, whatever their roots.
    this.#own('state folder', FolderHold.take(config.state, '--state'));
    const store = this.#own('store', Store.open<Stored>(config.root, systemClock, config.state, faults));
    this.#own('checkpoints of the database', store.startCheckpoints(log));
    store.startCopies(log);
    for (const problem of store.mended) log.error({ problem }, 'the database has lost records');
    const metrics = new PrometheusMetrics();
    const { meter } = metrics;
    const tracer = new Tracer();
    // Before all that it is told of, so that it is closed when their last spans have come.
    const traces = this.#own('traces', new SentTraces({ tracer, version: this.#version, metrics, log }));
    await traces.follow(config.tracing);
    const podRanges = new PodRanges({
      confDir: () => this.#config.cni.confDir,
      template: config.cni.confTemplate,
      noteFile: join(config.cni.cacheDir, 'written.sha256'),
      log,
    });
    const cluster = this.#joinCluster(podRanges);
    const notices: Notices = cluster ?? silentNotices;
    for (const problem of store.mended) notices.tell({ reason: 'StorageDamaged', message: problem });
    // Nearly all that is done for a pod or an image has some program begin or end.
    const spare = this.#own(
      'spare memory',
      new SpareMemory({ heap: new SpareHeap(), pages: new ProgramPages(), clock: systemClock }),
    );
    const processes = this.#own(
      'processes',
      new Processes({ log, meter, notices, faults, tracing: tracer, onWork: () => spare.noteWork() }),
    );
    const namespaces = this.#own('namespaces', new NamespaceMaker());
    // Its thread takes a while to start; the first pod shall not wait for it.
    namespaces.start();
    const cgroups = this.#own('cgroups', openCgroups(config.runtime.cgroupManager));
    const host = readHostFacts(log);
    const monitorPath = findMonitor(config.runtime.monitorPath);
    const programs = this.#own('sealed programs', new SealedPrograms({ stateDir: config.state, processes, log }));
    const runtime = new ContainerRuntime({
      stateDir: config.state,
      monitorPath,
      execMonitorPath: EXEC_MONITOR_PATH,
      execJoinPath: EXEC_JOIN_PATH,
      filterReaderPath: FILTER_READER_PATH,
      systemdCgroup: cgroups.driver === 'systemd',
      processes,
      programs,
      namespaces,
      log,
    });
    const cni = this.#own(
      'cni',
      new Cni({
        ...config.cni,
        defaultNetwork: config.cni.defaultNetwork || undefined,
        // The first process is who has to reap what closes late, and would not know of it.
        lateClosePath: config.cni.lateClose && process.pid !== 1 ? LATE_CLOSE_PATH : undefined,
        processes,
        log,
        meter,
        clock: systemClock,
      }),
    );
    const { root } = config;
    const disk = this.#own(
      'disk workers',
      new DiskWorkers({ process: new DiskProcess({ processes, log, version: this.#version }) }),
    );
    const layers = this.#own(
      'layers',
      new LayerStore({
        root,
        rows: store.layers,
        workers: disk,
        log,
        clock: systemClock,
        limits: { members: config.image.maxLayerFiles, dataBytes: config.image.maxLayerGib * 1024 ** 3 },
        devices: config.image.layerDevices,
      }),
    );
    const wantsVolatile = config.runtime.volatileRootfs;
    const snapshots = this.#own('snapshots', new Snapshots({ root, layers, workers: disk, wantsVolatile, log }));
    const written = new WritableLayers({ snapshots, log, clock: systemClock });
    const filesystems = new ImageFilesystems({ root, layers, written });
    const containers = new RecordIndex<ContainerRecord>('container', store.containers, store.containers.all(), log);
    const sandboxes = new RecordIndex<SandboxRecord>('sandbox', store.sandboxes, store.sandboxes.all(), log);
    const images = this.#own(
      'images',
      new Images({
        root: config.root,
        settings: config.image,
        store,
        layers,
        client: new RegistryClient({ monotonicMs: systemClock.monotonicMs }),
        programs: processes,
        faults,
        readArchive: (path, loading) =>
          readArchive(path, { scratch: join(root, 'image/ingest'), workers: disk, platform: hostPlatform() }, loading),
        writeArchive: (entries, saving) => streamArchive(disk, entries, saving),
        mounts: new ImageMounts({ stateDir: config.state, snapshots, clock: systemClock, log }),
        usersOf: (imageId) => containers.all().flatMap((record) => (usesImage(record, imageId) ? [record.id] : [])),
        log,
        meter,
        tracing: tracer,
        notices,
        clock: systemClock,
      }),
    );
    const security = { ...openSecurityParts(config, { processes, log }) };
    const probe = (wanted: Config['runtime']): Promise<Handlers> =>
      Handlers.probe(
        {
          ...wanted,
          stateDir: config.state,
          pausePath: PAUSE_PATH,
          cgroups,
          kernelHasRecursiveReadOnly: host.kernelHasRecursiveReadOnly,
          kernelMapsIds: host.kernelMapsIds,
          processes,
          log,
        },
        signal,
      );
    const [handlers] = await Promise.all([
      probe(config.runtime),
      cni.start(),
      layers.start(),
      security.apparmor.start(signal),
    ]);
    await snapshots.start();
    await images.start();
    const spareNetworks = this.#own(
      'spare networks',
      new SpareNetworks({
        limit: config.cni.spareNetworks,
        shutdown: signal,
        stateDir: config.state,
        sandboxDir: join(root, 'sandboxes'),
        cni,
        namespaces,
        security,
        clock: systemClock,
        log,
      }),
    );
    const deps: PodDeps = {
      log,
      meter,
      notices,
      clock: systemClock,
      faults,
      stateDir: config.state,
      sandboxDir: join(root, 'sandboxes'),
      checkpointDir: join(root, 'checkpoints'),
      extractArchive: (archive, target, signal) =>
        disk.run('extract', { archive, target, limits: defaultTarLimits }, signal),
      pausePath: PAUSE_PATH,
      sandboxes,
      containers,
      locks: new KeyedLock(),
      journals: new ObservedJournals(store.journal, { meter, log, faults, tracing: tracer }),
      namespaces,
      processes,
      cni,
      spareNetworks,
      images,
      snapshots,
      handlers,
      cgroups,
      runtime,
      host,
      security,
    };
    this.#noticeReboot(store, deps);
    this.#service.starting(`takes over ${sandboxes.all().length} pods and ${containers.all().length} containers`);
    const { orphansGone, ...report } = await reconcile(deps, store.journal.unfinished(), signal);
    const events = new PodEvents(deps, signal);
    const pods = this.#own('pods', new Pods(deps, signal));
    const checkpoints = this.#own('checkpoints', new PodCheckpoints(deps, pods, signal));
    const stats = this.#own('stats', new PodStats({ ...deps, written, filesystems }));
    pods.start(orphansGone);
    const findings = new ConfigFindings({
      config: () => this.#config,
      reloaded: () => this.#reloaded,
      security,
      cni,
      handlers,
      images,
      cgroups,
      host,
      processes,
    });
    const places = { root, state: config.state };
    const checkDatabase = (): string => store.check();
    const doctor = new DoctorFindings({
      places,
      config: findings,
      pods: deps,
      images,
      layers,
      snapshots,
      cluster,
      handlers,
      checkDatabase,
    });
    const streams = new PodStreams(deps, signal);
    const streamServer = await this.#serveStreams(streams);
    const figures = { root, version: this.#version, pods: deps, cni, images, layers, disk, events };
    const doctorFound = () => doctor.lastFound;
    const served = this.#own('metrics', new ServedMetrics(metrics, log));
    const certificates = { stream: () => streamServer.certificateEndsAt, metrics: () => served.certificateEndsAt };
    const linesLost = () => log.linesLost();
    metrics.watch({
      berth_trace_spans_waiting: () => tracer.waiting,
      berth_config_last_reload_successful: () => (this.#reloaded.problem === '' ? 1 : 0),
      berth_config_keys_waiting: () => this.#reloaded.waiting.length,
    });
    this.#countReload = metrics.configReloaded;
    const rest = { streams: streamServer, reconciled: report, doctorFound, certificates, linesLost };
    metrics.watch(liveFigures({ ...figures, ...rest }));
    await served.serve(config.metrics);
    const parts = {
      images,
      cni,
      spareNetworks,
      handlers,
      probe,
      security,
      processes,
      metrics: served,
      traces,
      log,
      faults,
    };
    this.#follow = async (next, changed) => await followConfig(parts, next, changed, signal);
    const server = new GrpcServer(
      buildServices({
        log,
        meter,
        tracer,
        pods,
        checkpoints,
        events,
        stats,
        streams,
        streamServer,
        images,
        cni,
        podRanges,
        handlers,
        program: { name: 'berth', version: this.#version },
        cgroupDriver: cgroups.driver,
        steps: store.journal,
        config: findings,
        doctor,
        filesystems,
        info: () => ({
          config: this.#config,
          cgroupDriver: cgroups.driver,
          cgroupMode: cgroups.mode,
          defaultHandler: handlers.defaultName,
        }),
      }),
    );
    await server.listen(config.listen.replace(/^unix:\/\//, ''));
    this.#own('server', server);
    log.info(
      { ...report, listen: config.listen, version: this.#version, ms: Math.round(performance.now() - startedMs) },
      'berthd serves',
    );
    const status = (): string => statusLine(config.listen, sandboxes.all(), containers.all());
    this.#service.ready(status());
    this.#startHeartbeat(store, status);
    spare.start();
  }

  /** Undefined without a kubeconfig. */
  #joinCluster(podRanges: PodRanges): Cluster | undefined {
    const { kubeconfig, nodeName, events } = this.#config.cluster;
    if (kubeconfig === '') return undefined;
    const signal = this.#shutdown.signal;
    const onPodRanges = (ranges: readonly string[]): void => {
      podRanges.write('Node.spec.podCIDRs', ranges, signal).catch((err: unknown) => {
        this.#log.error({ ranges, err: describe(err) }, 'the network for pods could not be written');
      });
    };
    const node = { kubeconfig, nodeName: nodeName || hostname().toLowerCase(), sendEvents: events };
    const cluster = this.#own('cluster', new Cluster({ ...node, log: this.#log, onPodRanges }));
    cluster.start();
    return cluster;
  }

  // Of one transaction: whoever dies in it sees the restart again.
  #noticeReboot(store: Store<Stored>, deps: PodDeps): void {
    const facts = [
      { name: BOOT_ID, now: readBootId() },
      { name: FIRST_PROCESS, now: String(readProcessStartTime(1)) },
    ].map((fact) => ({ ...fact, before: store.facts.find(fact.name) }));
    const changed = facts.filter(({ before, now }) => before !== now);
    if (changed.length === 0) return;
    store.transaction(() => {
      // What is not known is no other: an earlier berthd did not write down all of them.
      if (changed.some(({ before }) => before !== undefined)) settleReboot(deps);
      for (const { name, now } of changed) store.facts.put(name, now);
    });
  }

  #startHeartbeat(store: Store<Stored>, status: () => string): void {
    const service = this.#service;
    if (!service.isThere) return;
    const check = async (signal: AbortSignal): Promise<void> => {
      await askSelf(this.#config.listen, signal);
      store.facts.find(BOOT_ID);
    };
    this.#own('heartbeat', new Heartbeat({ service, check, status, log: this.#log })).start();
  }

  async #serveStreams(target: PodStreams): Promise<StreamServer> {
    const { listen, tlsCert, tlsKey, tlsClientCa } = this.#config.stream;
    const log = this.#log;
    const tls = tlsCert && new TlsFiles('stream', { cert: tlsCert, key: tlsKey, clientCa: tlsClientCa }, log);
    const parts = { target, log, clock: systemClock, ...(tls ? { tls } : {}) };
    const server = this.#own('streams', new StreamServer(parts));
    const { host = '', port = 0 } = parseAddress(listen) ?? {};
    this.#log.info({ url: await server.listen(host, port) }, 'streams are served');
    return server;
  }

  #own<T extends { close(): Promise<void> | void }>(name: string, part: T): T {
    this.#closers.push({ name, close: () => part.close() });
    return part;
  }
}

function findMonitor(path: string): string {
  try {
    return findProgram(path);
  } catch (err) {
    throw because(
      'precondition',
      'runtime.monitor_path: containers need a monitor; on Debian: apt-get install conmon',
      err,
    );
  }
}

interface WithState {
  readonly state: string;
}

function statusLine(listen: string, sandboxes: readonly WithState[], containers: readonly WithState[]): string {
  const [pods, running] = [countBy(sandboxes).get('ready') ?? 0, countBy(containers).get('running') ?? 0];
  return `serves on ${listen}; pods: ${pods} ready, containers: ${running} running`;
}

function makeStateFolder(path: string): void {
  try {
    makeFolders(path, 0o711);
  } catch (err) {
    throw wrap(`make state folder ${path}`, err);
  }
}
