import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, watch, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';

import { ListPodSandboxRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { CriConnection, type Method } from './cri-connection.ts';
import { assertNothingLeft, killInCgroups, readLinks, readMachineState, readMounts } from './machine-state.ts';
import { patient } from './patience.ts';
import { type PodTraces, readPodTraces } from './pod-traces.ts';
import { bridgeList, type TestNetwork, takeNetwork } from './test-network.ts';

const TOP = fileURLToPath(new URL('../..', import.meta.url));
const START_TIMEOUT_MS = patient(60_000);
/** As long as systemd waits for a service that does not say otherwise. */
const END_TIMEOUT_MS = 90_000;
/** Characters of its log that are shown of one that did not end. */
const LAST_WORDS = 4000;
/** Set where other programs make pods at the same time: then only what bears a test's own names is looked for. */
const IS_SHARED = process.env['BERTH_TEST_SHARED_MACHINE'] !== undefined;
/** `cgroupfs` or `systemd`: the cgroup driver of berthds whose test does not name one; on most machines it shows by itself. */
const CGROUP_MANAGER = process.env['BERTH_TEST_CGROUP_MANAGER'];

/** How a test's berthd shall be. */
export interface BerthdOptions {
  /** More lines of berth.toml. */
  readonly config?: string;
  readonly root?: string;
  /** How many networks it may keep ready; none unless it is said, so that tests see what their own pods have. */
  readonly spareNetworks?: number;
  /** More of its environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * A berthd of a test's own: private folders, socket, network and bridge. Dispose of it at the end: everything goes, and
 * the machine must be as it was before.
 */
export class TestBerthd implements AsyncDisposable {
  readonly root: string;
  readonly state: string;
  readonly networks: string;
  readonly plugins: string;
  readonly endpoint: string;
  readonly network: TestNetwork = takeNetwork();
  readonly #before = readMachineState();
  readonly #forwarding = readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8');
  readonly #environment: Readonly<Record<string, string>>;
  #process: ChildProcess | undefined;
  #connection: CriConnection | undefined;

  constructor(options: BerthdOptions = {}) {
    this.#environment = options.environment ?? {};
    // On tmpfs where the machine has one: the state folder is made for it.
    this.state = mkdtempSync('/run/berth-test-');
    this.root = options.root ?? mkdtempSync('/var/lib/berth-test-');
    this.networks = join(this.root, 'net.d');
    this.plugins = join(this.root, 'plugins');
    this.endpoint = `unix://${this.state}/berth.sock`;
    mkdirSync(this.networks, { recursive: true });
    mkdirSync(this.plugins, { recursive: true });
    this.useNetwork();
    const lines = [
      `root = "${this.root}"`,
      `state = "${this.state}"`,
      `listen = "${this.endpoint}"`,
      '[cni]',
      `conf_dir = "${this.networks}"`,
      `bin_dirs = ["${this.plugins}", "/opt/cni/bin", "/usr/lib/cni"]`,
      `spare_networks = ${options.spareNetworks ?? 0}`,
      '[log]',
      'level = "debug"',
      options.config ?? '',
    ];
    writeFileSync(join(this.root, 'berth.toml'), `${lines.join('\n')}\n`);
    if (CGROUP_MANAGER === undefined) return;
    mkdirSync(join(this.root, 'berth.toml.d'), { recursive: true });
    writeFileSync(join(this.root, 'berth.toml.d/cgroups.toml'), `runtime.cgroup_manager = "${CGROUP_MANAGER}"\n`);
  }

  /** Writes the network configuration: a bridge with addresses of its own, or the plugin that a test brings. */
  useNetwork(plugin?: { readonly type: string }): void {
    const list = plugin
      ? { cniVersion: '1.0.0', name: 'berth-test', plugins: [plugin] }
      : bridgeList(this.network, join(this.root, 'addresses'));
    writeFileSync(join(this.networks, '10-test.conflist'), JSON.stringify(list));
  }

  /** Starts berthd and returns when it answers. */
  async start(): Promise<void> {
    const log = openSync(this.logFile, 'a');
    this.#process = spawn(join(TOP, 'bin/berthd'), ['--config', join(this.root, 'berth.toml')], {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...this.#environment },
    });
    closeSync(log);
    await this.connect();
  }

  /** Returns when berthd answers, whoever has started it. */
  async connect(): Promise<void> {
    const giveUpAt = Date.now() + START_TIMEOUT_MS;
    while (!(await this.#answers())) {
      const isOver = (this.#process && hasEnded(this.#process)) || Date.now() > giveUpAt;
      if (isOver) throw new Error(`berthd does not serve:\n${this.log()}`);
      await delay(10);
    }
    this.#connection?.close();
    this.#connection = new CriConnection(this.endpoint);
  }

  /** Ends berthd by a signal and waits for its end. Fails, and kills it, when that does not come. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (!child || hasEnded(child)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    child.once('exit', () => resolve());
    child.kill(signal);
    const stop = new AbortController();
    const tooLong = delay(patient(END_TIMEOUT_MS), 'too long', { signal: stop.signal }).catch(() => undefined);
    const outcome = await Promise.race([promise, tooLong]);
    stop.abort();
    if (outcome === undefined) return;
    child.kill('SIGKILL');
    await promise;
    throw new Error(`berthd did not end ${END_TIMEOUT_MS / 1000} s after ${signal}:\n${this.log().slice(-LAST_WORDS)}`);
  }

  /** Starts a berthd anew that is gone, or that does not answer; true when that was so. */
  async revive(): Promise<boolean> {
    if (await this.#answers()) return false;
    await this.end('SIGKILL');
    await this.start();
    return true;
  }

  /** The running berthd's process. */
  get pid(): number {
    assert.ok(this.#process?.pid, 'berthd was not started');
    return this.#process.pid;
  }

  /** What it keeps of pods, by place. */
  traces(): PodTraces {
    return readPodTraces(this);
  }

  /** Fails, naming it, when anything is left of pods although there are none. */
  assertNoTraces(): void {
    assert.deepEqual(this.traces(), {}, 'left of pods that were removed');
  }

  /** Sends a request. Throws grpc's ServiceError. */
  async call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    timeoutMs?: number,
  ): Promise<Response> {
    return await this.connection.call(method, request, { timeoutMs });
  }

  /** Opens a stream of answers. Its caller listens to errors, and cancels it when it has no end of its own. */
  open<Request, Response>(method: Method<Request, Response>, request: Request): ClientReadableStream<Response> {
    return this.connection.open(method, request);
  }

  /** The error that a request ends with. Throws when it succeeds. */
  async fails<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    timeoutMs?: number,
  ): Promise<ServiceError> {
    return await this.connection.fails(method, request, { timeoutMs });
  }

  /** To the running berthd. */
  get connection(): CriConnection {
    if (!this.#connection) throw new Error('berthd was not started');
    return this.#connection;
  }

  /** What it tells Prometheus; needs `[metrics] listen = "127.0.0.1:0"` in its configuration. */
  async metrics(): Promise<string> {
    const served = [...readFileSync(this.logFile, 'utf8').matchAll(/"port":(\d+),"msg":"metrics are served"/g)];
    const port = served.at(-1)?.[1] ?? assert.fail('it serves no metrics');
    // A connection that is kept may have been closed while this process was busy.
    const headers = { connection: 'close' };
    return await (await fetch(`http://127.0.0.1:${port}/metrics`, { headers })).text();
  }

  get logFile(): string {
    return join(this.root, 'berthd.log');
  }

  /** All that it, and those before it, have logged. */
  wholeLog(): string {
    return readFileSync(this.logFile, 'utf8');
  }

  /** The last lines of its log, for messages. */
  log(): string {
    return readFileSync(this.logFile, 'utf8').split('\n').slice(-30).join('\n');
  }

  /** Waits until its log has `count` more lines with `text` than now, and tells within a millisecond or so. */
  async logged(text: string, count: number): Promise<void> {
    const lines = (): number => readFileSync(this.logFile, 'utf8').split(text).length;
    const wanted = lines() + count;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const watcher = watch(this.logFile, () => {
      if (lines() >= wanted) resolve();
    });
    // It may have come before there was a watch.
    if (lines() >= wanted) resolve();
    const timer = setTimeout(
      () => reject(new Error(`berthd did not log ${count} times ${text}:\n${this.log()}`)),
      START_TIMEOUT_MS,
    );
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      watcher.close();
    }
  }

  /** Stops berthd, removes its folders and bridge, and looks whether anything is left on the machine. */
  async [Symbol.asyncDispose](): Promise<void> {
    const problem = await this.#removePods().catch((err: unknown) => err);
    this.#connection?.close();
    const endless = await this.end('SIGTERM').catch((err: unknown) => err);
    // By now without the networks that it had ready.
    const traces = readPodTraces(this);
    const { bridge } = this.network;
    if (readLinks().includes(bridge)) execFileSync('ip', ['link', 'delete', bridge]);
    writeFileSync('/proc/sys/net/ipv4/ip_forward', this.#forwarding);
    this.network.free();
    const own = IS_SHARED ? [this.root, this.state, bridge] : undefined;
    const left = await assertNothingLeft(this.#before, own).catch((err: unknown) => err);
    this.#takeAwayRest();
    for (const folder of [this.state, this.root]) rmSync(folder, { recursive: true, force: true });
    assert.equal(endless, undefined);
    assert.equal(problem, undefined);
    assert.deepEqual(traces, {}, 'left of pods that were removed');
    if (left !== undefined) throw left;
  }

  /** What pods have left; it has been taken stock of, and the next test shall not trip over it. */
  #takeAwayRest(): void {
    // systemd's slices have the name without its dashes.
    const name = basename(this.state);
    killInCgroups([name, name.replaceAll('-', '')]);
    for (const point of readMounts().reverse()) {
      if (point.startsWith(`${this.state}/`) || point.startsWith(`${this.root}/`))
        execFileSync('umount', ['-l', point]);
    }
  }

  /** What a failed test left running; a berthd that is gone is started once more for it. */
  async #removePods(): Promise<void> {
    await this.revive();
    const { items } = await this.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    for (const { id } of items) {
      await this.call(runtime.stopPodSandbox, { podSandboxId: id });
      await this.call(runtime.removePodSandbox, { podSandboxId: id });
    }
  }

  async #answers(): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const socket = connect(this.endpoint.replace('unix://', ''));
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    try {
      return await promise;
    } finally {
      socket.destroy();
    }
  }
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
