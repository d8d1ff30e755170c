import { BerthError } from '../base/errors.ts';
import type { Cluster } from '../cluster/cluster.ts';
import type { StoredImage } from '../image/image-record.ts';
import type { Images } from '../image/images.ts';
import type { LayerStore } from '../image/layer-store.ts';
import type { Snapshots } from '../image/snapshots.ts';
import type { Finding, ToldFinding } from '../node/finding.ts';
import { tellFindings } from '../node/mend.ts';
import { databaseFindings, type StorePlaces, storeFindings } from '../node/store-findings.ts';
import type { PodDeps } from '../pod/pod-deps.ts';
import type { Handlers } from '../runtime/handlers.ts';
import type { ConfigFindings } from './config-findings.ts';

/** What is looked over. */
interface DoctorParts {
  readonly places: StorePlaces;
  readonly config: ConfigFindings;
  readonly pods: Pick<PodDeps, 'sandboxes' | 'containers' | 'spareNetworks'>;
  readonly images: Images;
  readonly layers: LayerStore;
  readonly snapshots: Pick<Snapshots, 'refusesVolatile'>;
  /** Undefined without a kubeconfig. */
  readonly cluster: Pick<Cluster, 'runtimeClasses' | 'problem'> | undefined;
  readonly handlers: Pick<Handlers, 'statuses'>;
  /** What is wrong with the database; '' for nothing. */
  readonly checkDatabase: () => string;
}

/** `berth doctor` of a running berthd: this node, and what berthd keeps of pods and images. */
export class DoctorFindings {
  readonly #parts: DoctorParts;
  #lastFound: readonly Finding[] | undefined;

  constructor(parts: DoctorParts) {
    this.#parts = parts;
  }

  /** What the last look found, before anything was mended; undefined when there was none. */
  get lastFound(): readonly Finding[] | undefined {
    return this.#lastFound;
  }

  /** Looks, and mends what is safe if that is wanted. Pods go on meanwhile. */
  async examine(fix: boolean, signal: AbortSignal): Promise<ToldFinding[]> {
    const { places, config, checkDatabase } = this.#parts;
    const found: Finding[] = [
      ...(await config.findings(signal)),
      ...databaseFindings(places, checkDatabase(), undefined),
      ...storeFindings(places, this.#contents()),
      ...this.#damageFindings(),
      ...this.#diskFindings(),
      ...(await this.#garbageFindings()),
      ...this.#clusterFindings(),
    ];
    this.#lastFound = found;
    return await tellFindings(found, fix);
  }

  #contents() {
    const { pods, images, layers } = this.#parts;
    const stored: readonly StoredImage[] = images.list();
    return {
      sandboxes: [...pods.sandboxes.all(), ...pods.spareNetworks.ids().map((id) => ({ id, state: 'creating' }))],
      containers: pods.containers.all(),
      images: stored,
      layers: layers.all().map(({ diffId }) => diffId),
    };
  }

  /** What keeps images from being used, as far as that has been noticed: at the start, or by berth image check. */
  #damageFindings(): Finding[] {
    return this.#parts.images.damaged().map(({ id, names, problems }) => ({
      severity: 'error',
      subject: `image ${names[0] ?? id}`,
      message: `is damaged and not used until it is pulled again: ${problems.join('; ')}`,
      remedy: `berth image pull ${names[0] ?? 'REFERENCE'}, which brings only what is missing`,
    }));
  }

  #diskFindings(): Finding[] {
    const { places, snapshots } = this.#parts;
    if (!snapshots.refusesVolatile) return [];
    return [
      {
        severity: 'warning',
        subject: 'root folder',
        message: `the disk of ${places.root} has had an error, so new root filesystems are written out at their end; in those that were there before, fsync fails with EIO`,
        remedy: `look what it was (dmesg, smartctl); then sync --file-system ${places.root}, which tells of it once, and remove the pods that are older than that`,
      },
    ];
  }

  #clusterFindings(): Finding[] {
    const { cluster, handlers } = this.#parts;
    if (!cluster) return [];
    const statuses = new Map(handlers.statuses().map((status) => [status.name, status]));
    const works = (handler: string): boolean => {
      const status = statuses.get(handler);
      return status !== undefined && 'handler' in status;
    };
    const found = (cluster.runtimeClasses ?? [])
      .filter(({ handler }) => !works(handler))
      .map(({ name, handler }): Finding => {
        const isKnown = statuses.has(handler);
        return {
          severity: 'warning',
          subject: `RuntimeClass ${name}`,
          message: `its pods cannot run on this node: the handler ${JSON.stringify(handler)} ${isKnown ? 'does not work' : 'is not configured'} here`,
          remedy: `${isKnown ? `mend runtime.handlers.${handler}, as said above` : `add [runtime.handlers.${handler}] to /etc/berth/berth.toml`}, or keep the class away from this node by its scheduling.nodeSelector`,
        };
      });
    if (cluster.problem === '') return found;
    const trouble: Finding = {
      severity: 'warning',
      subject: 'cluster',
      message: `the API server cannot be asked: ${cluster.problem}`,
      remedy: 'look at cluster.kubeconfig, and whether the kubelet of this node reaches the API server',
    };
    return [trouble, ...found];
  }

  async #garbageFindings(): Promise<Finding[]> {
    const { images } = this.#parts;
    const garbage = await images.prune({ dryRun: true, unusedImages: false });
    if (garbage.length === 0) return [];
    const bytes = garbage.reduce((sum, item) => sum + item.bytes, 0);
    return [
      {
        severity: 'info',
        subject: 'image folder',
        message: `${garbage.length} layers, folders or blobs belong to nothing and take ${Math.ceil(bytes / 1024 ** 2)} MiB or more`,
        remedy: 'berth image prune',
        mend: async () => {
          const left = (await images.prune({ dryRun: false, unusedImages: false })).filter(
            (item) => item.problem !== '',
          );
          if (left[0]) throw new BerthError('internal', `${left.length} could not be removed: ${left[0].problem}`);
        },
      },
    ];
  }
}
