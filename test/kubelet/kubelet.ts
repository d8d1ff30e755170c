import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';

import { makeCertificate } from '../fakes/certificates.ts';
import { patient } from '../harness/patience.ts';
import { DRIVER, openCgroupRoot } from './cgroup-root.ts';
import { mountSmallDisk, shareFolder, unmount } from './folder-mounts.ts';
import { withOwnSettings } from './kernel-settings.ts';
import type { PodList, PodStatus, StaticPod } from './pods.ts';
import { until } from './until.ts';

/** The name of the node; the kubelet appends it to the names of static pods. */
export const NODE = 'test-node';
const START_TIMEOUT_MS = 60_000;
const CLEAN_TIMEOUT_MS = 60_000;
const END_TIMEOUT_MS = 20_000;
/** A log line as klog writes it, of an error or of what ends the process. */
const FATAL = /^(F\d{4}|E\d{4}.*(command failed|failed to run Kubelet))/m;

/** How a test's kubelet shall be. */
export interface KubeletOptions {
  /** The CRI server's, as `unix:///...`. */
  readonly endpoint: string;
  readonly features?: Readonly<Record<string, boolean>>;
  /** A configuration file and its drop-ins, which those of the test are laid over as one more drop-in. */
  readonly given?: { readonly file: string; readonly dropIns: readonly string[] };
  /** Laid over the fields of its KubeletConfiguration. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Of an API server that it takes its pods from; undefined: it runs without one. */
  readonly kubeconfig?: object;
  /** Of the file system that its pods' volumes are on; undefined: the machine's. */
  readonly diskBytes?: number;
}

/** An answer of the kubelet's own API. */
export interface ApiAnswer {
  readonly status: number;
  readonly text: string;
}

/** A kubelet. Without an API server it runs the pods whose manifests it finds in a folder. */
export class TestKubelet implements AsyncDisposable {
  readonly root = mkdtempSync('/var/lib/berth-kubelet-');
  readonly #options: KubeletOptions;
  readonly #manifests = join(this.root, 'manifests');
  readonly #data = join(this.root, 'data');
  readonly #certificate = makeCertificate(this.root, NODE);
  readonly #cgroups = openCgroupRoot(basename(this.root));
  #port = 0;
  #keptLog: string | undefined;
  #process: ChildProcess | undefined;

  constructor(options: KubeletOptions) {
    this.#options = options;
    for (const folder of [this.#manifests, this.#data]) mkdirSync(folder);
    if (options.diskBytes === undefined) shareFolder(this.#data);
    else mountSmallDisk(this.#data, options.diskBytes);
  }

  /** The folder with all pods' volumes. */
  get podFolders(): string {
    return join(this.#data, 'pods');
  }

  /** Below which cgroup its pods are, by their QoS. */
  get podsCgroup(): string {
    return this.#cgroups.pods;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  /** The certificate that its API shows. */
  get authority(): Buffer {
    return readFileSync(this.#certificate.cert);
  }

  /** Starts it, and returns when it has begun to work. */
  async start(): Promise<void> {
    this.#port = await freePort();
    const configured = this.#writeConfiguration(await this.#configuration());
    const log = openSync(this.logFile, 'a');
    const flags = [...configured, `--root-dir=${this.#data}`, `--hostname-override=${NODE}`, '--v=4'];
    if (this.#options.kubeconfig) {
      const kubeconfig = join(this.root, 'kubeconfig');
      writeFileSync(kubeconfig, JSON.stringify(this.#options.kubeconfig));
      flags.push(`--kubeconfig=${kubeconfig}`);
    }
    const program = process.env['KUBELET_BIN'] ?? assert.fail('KUBELET_BIN is not set');
    const words = [program, ...flags, `--cert-dir=${this.root}`];
    const [first, ...others] = withOwnSettings(join(this.root, 'settings'), words);
    this.#process = spawn(first, others, { stdio: ['ignore', log, log] });
    closeSync(log);
    await until('the kubelet to be healthy', START_TIMEOUT_MS, async () => {
      if (this.#hasEnded() || FATAL.test(this.log())) throw new Error(`the kubelet does not start:\n${this.log(60)}`);
      const answer = await this.get('/healthz').catch(() => undefined);
      return answer?.status === 200 ? true : undefined;
    });
  }

  /** Ends it by a signal; its pods go on. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (!child || this.#hasEnded()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    child.once('exit', () => resolve());
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), patient(END_TIMEOUT_MS));
    await promise;
    clearTimeout(timer);
  }

  /** Makes or changes a static pod. */
  put(pod: StaticPod): void {
    const file = join(this.#manifests, `${pod.metadata.name}.json`);
    // A name that begins with a dot is no manifest.
    const draft = join(this.#manifests, `.${pod.metadata.name}`);
    writeFileSync(draft, JSON.stringify({ apiVersion: 'v1', kind: 'Pod', ...pod }));
    renameSync(draft, file);
  }

  /** Takes a static pod's manifest away. */
  remove(name: string): void {
    rmSync(join(this.#manifests, `${name}.json`), { force: true });
  }

  /** Takes all manifests away, and waits until nothing of the pods runs or is stored any more. */
  async removeAll(): Promise<void> {
    for (const file of readdirSync(this.#manifests)) rmSync(join(this.#manifests, file));
    await until('all pods to be gone', CLEAN_TIMEOUT_MS, async () => {
      if ((await this.pods()).length > 0) return undefined;
      return this.#folders().length === 0 && this.#cgroups.find().length === 0 ? true : undefined;
    }).catch((err: unknown) => {
      const left = [...this.#folders(), ...this.#cgroups.find()];
      throw new Error(`of removed pods the kubelet leaves ${left.join(', ') || 'entries in /pods'}`, { cause: err });
    });
  }

  /** Puts a seccomp profile where a pod's `localhostProfile` is looked for. */
  addSeccompProfile(name: string, profile: object): void {
    const folder = join(this.#data, 'seccomp');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, name), JSON.stringify(profile));
  }

  /** What it knows of its pods. */
  async pods(): Promise<readonly PodStatus[]> {
    const { items } = JSON.parse(await this.#text('/pods')) as PodList;
    return items ?? [];
  }

  /** What it knows of a static pod. */
  async find(name: string): Promise<PodStatus | undefined> {
    return (await this.pods()).find(({ metadata }) => metadata.name === `${name}-${NODE}`);
  }

  /** The JSON that a path of its API answers with. */
  async json(path: string): Promise<unknown> {
    return JSON.parse(await this.#text(path));
  }

  /** What a path of its API answers. */
  async get(path: string, method = 'GET'): Promise<ApiAnswer> {
    const { promise, resolve, reject } = Promise.withResolvers<ApiAnswer>();
    const sent = request(`${this.url}${path}`, { ca: this.authority, method, timeout: patient(30_000) }, (response) => {
      text(response).then((body) => resolve({ status: response.statusCode ?? 0, text: body }), reject);
    });
    sent.once('error', reject).once('timeout', () => sent.destroy(new Error(`${path}: no answer in time`)));
    sent.end();
    return await promise;
  }

  get logFile(): string {
    return join(this.root, 'kubelet.log');
  }

  /** The last lines of its log. */
  log(lines = 40): string {
    return readFileSync(this.logFile, 'utf8').split('\n').slice(-lines).join('\n');
  }

  /** Copies its log to a file when it is disposed of. */
  keepLogAs(file: string | undefined): void {
    this.#keptLog = file;
  }

  /** Removes its pods, ends it, and takes its folder and its cgroups away. */
  async [Symbol.asyncDispose](): Promise<void> {
    const problem = this.#hasEnded() ? undefined : await this.removeAll().catch((err: unknown) => err);
    await this.end('SIGTERM');
    if (this.#keptLog !== undefined) copyFileSync(this.logFile, this.#keptLog);
    unmount(this.#data);
    rmSync(this.root, { recursive: true, force: true });
    if (problem !== undefined) throw problem;
    this.#cgroups.remove();
  }

  async #text(path: string): Promise<string> {
    const { status, text: body } = await this.get(path);
    assert.equal(status, 200, `${path}: ${body}`);
    return body;
  }

  #folders(): string[] {
    try {
      return readdirSync(this.podFolders);
    } catch {
      return [];
    }
  }

  #hasEnded(): boolean {
    return !this.#process || this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  /** Returns the flags that name it. */
  #writeConfiguration(own: object): string[] {
    const folder = join(this.root, 'kubelet.conf.d');
    const file = join(folder, '99-test.conf');
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, JSON.stringify(own, undefined, 1));
    const { given } = this.#options;
    if (!given) return [`--config=${file}`];
    for (const dropIn of given.dropIns) copyFileSync(dropIn, join(folder, basename(dropIn)));
    return [`--config=${given.file}`, `--config-dir=${folder}`];
  }

  async #configuration(): Promise<object> {
    const { endpoint, features = {}, config = {} } = this.#options;
    const minor = await kubeletMinor();
    return {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      staticPodPath: this.#manifests,
      containerRuntimeEndpoint: endpoint,
      address: '127.0.0.1',
      port: this.#port,
      healthzPort: 0,
      readOnlyPort: 0,
      tlsCertFile: this.#certificate.cert,
      tlsPrivateKeyFile: this.#certificate.key,
      authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
      authorization: { mode: 'AlwaysAllow' },
      cgroupDriver: DRIVER,
      cgroupRoot: this.#cgroups.path,
      enforceNodeAllocatable: ['pods'],
      podLogsDir: join(this.root, 'logs'),
      volumePluginDir: join(this.root, 'volume-plugins'),
      failSwapOn: false,
      makeIPTablesUtilChains: false,
      // A lower one than its own needs CAP_SYS_RESOURCE.
      oomScoreAdj: 0,
      syncFrequency: '5s',
      volumeStatsAggPeriod: '5s',
      imageGCHighThresholdPercent: 100,
      evictionHard: { 'memory.available': '1Mi' },
      shutdownGracePeriod: '0s',
      // What the API server of these tests speaks.
      contentType: 'application/json',
      configMapAndSecretChangeDetectionStrategy: 'Get',
      nodeStatusUpdateFrequency: '2s',
      clusterDomain: 'cluster.test',
      clusterDNS: ['10.96.0.10'],
      ...(minor >= 31 ? { failCgroupV1: false } : {}),
      ...config,
      featureGates: features,
    };
  }
}

/** The kubelet's minor version: 36 of v1.36.3. */
export async function kubeletMinor(): Promise<number> {
  const program = process.env['KUBELET_BIN'] ?? assert.fail('KUBELET_BIN is not set');
  const child = spawn(program, ['--version'], { stdio: ['ignore', 'pipe', 'inherit'], timeout: patient(30_000) });
  const said = await text(child.stdout);
  return Number(/v1\.(\d+)\./.exec(said)?.[1] ?? assert.fail(`no version: ${said}`));
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.once('error', reject).once('listening', () => {
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    server.close(() => resolve(port ?? 0));
  });
  return await promise;
}
